"""All labs of one pytest process: their runtime directory, those that wait to be used again, and the end of all.

Rule: whatever happens to pytest, nothing stays for long. At the end every lab is taken down; what a killed pytest left
is taken down by the next one, which sees by a lock who is dead.
"""

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Final

from vbackend.control.place import lab_names
from vbackend.errors import VbackendError
from vbackend.lab import model
from vbackend.lab.client import down
from vbackend.testing.control import blocking
from vbackend.testing.lab import Lab
from vbackend.testing.sources import Source, content, read_source, renamed

__all__ = ["LabPool"]

_PREFIX: Final = "vb-"  # of runtime directories, in /tmp: sockets need short paths


class LabPool:
    """`worker`: tells processes of one test run apart (xdist). `keep`: how many labs wait to be used again."""

    def __init__(self, worker: str = "", *, keep: int = 2, tmp: Path = Path("/tmp")) -> None:
        self._worker: Final = re.sub("[^a-z0-9]", "", worker.lower())[:6]
        self._keep: Final = keep
        self._numbers: Final = count(1)
        self._idle: Final[list[Lab]] = []  # the one that was used last at the end
        self._keys: Final[dict[str, str]] = {}  # content of what was borrowed, by the lab's name
        sweep(tmp)
        self.runtime: Final = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.geteuid()}-", dir=tmp))
        self._lock: Final = _locked(self.runtime)
        self.environ: Final[Mapping[str, str]] = {**os.environ, "XDG_RUNTIME_DIR": str(self.runtime)}

    def start(self, source: Source, *, base: Path, folder: Path) -> Lab:
        """A lab of its own. `base`: what its paths are relative to; `folder`: for captures. VbackendError: no."""
        return Lab(self._named(read_source(source, base), base), self.environ, folder)

    def borrow(self, source: Source, *, base: Path, folder: Path) -> Lab:
        """One that is as new: an idle one of the same content, else a new one whose guests are saved."""
        wanted = read_source(source, base)
        key = content(wanted)
        lab = next((idle for idle in reversed(self._idle) if self._keys[idle.name] == key), None)
        if lab is not None:
            self._idle.remove(lab)
            try:
                lab.reuse(folder)
                return lab
            except VbackendError:
                lab.down()
        lab = Lab(self._named(wanted, base), self.environ, folder)
        try:
            lab.save()
        except BaseException:
            lab.down()
            raise
        self._keys[lab.name] = key
        return lab

    def give_back(self, lab: Lab) -> None:
        """What was borrowed is idle, until there are too many."""
        lab.let_go()
        self._idle.append(lab)
        while len(self._idle) > self._keep:
            self._idle.pop(0).down()

    def close(self) -> None:
        """Take everything down."""
        self._idle.clear()
        _remove(self.runtime)
        os.close(self._lock)

    def _named(self, lab: model.Lab, base: Path) -> model.Lab:
        suffix = f"{self._worker}-{next(self._numbers)}".lstrip("-")  # gw1's eleventh is not gw11's first
        sockets = self.runtime / suffix
        sockets.mkdir()
        return renamed(lab, suffix, sockets_of=base.absolute(), sockets_in=sockets)


def sweep(tmp: Path) -> None:
    """Take down what dead processes of this user left."""
    for runtime in tmp.glob(f"{_PREFIX}{os.geteuid()}-*"):
        with contextlib.suppress(OSError):  # somebody else was first, or it is not ours
            fd = os.open(runtime / "lock", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(runtime)
            finally:
                os.close(fd)


def _locked(runtime: Path) -> int:
    """The lock file appears locked, so that nobody who sweeps takes this for a dead process's."""
    fd = os.open(runtime / "new", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    (runtime / "new").rename(runtime / "lock")
    return fd


def _remove(runtime: Path) -> None:
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(runtime)}
    for name in lab_names(environ):
        blocking(down, name, environ)
    shutil.rmtree(runtime, ignore_errors=True)
