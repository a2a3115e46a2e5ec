"""Labs driven as users drive them: the `vbackend` command, a runtime folder of its own, and nothing left at the end.

    with lab_runtime() as labs:
        labs.vbackend("up", str(file))
        labs.status("two").vms

`dumb_disk` is what a VM without an operating system boots: a sector that halts, so that QEMU itself is all there is.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Final

from tests.support.netns import Namespace
from tests.support.privileges import as_user
from tests.support.run import VBACKEND, wait_until
from vbackend.control.place import lab_names
from vbackend.lab.client import down, is_served, status
from vbackend.lab.process import find_qemus
from vbackend.lab.state import LabFolder, LabLock
from vbackend.lab.status import LabStatus

__all__ = ["Labs", "Outcome", "dumb_disk", "lab_runtime"]

_ROOT: Final = Path(__file__).resolve().parents[2]
_LIMIT_S: Final = 100.0


@dataclass(frozen=True, slots=True)
class Outcome:
    status: int
    out: str
    err: str


class Labs:
    """All labs below one runtime folder."""

    def __init__(self, runtime: Path, uid: int | None = None, netns: Namespace | None = None) -> None:
        """`uid`: whose labs they are, None: ours. Their QEMUs are found by root too. `netns`: where they run."""
        self.runtime: Final = runtime
        user = () if uid is None else as_user(uid)
        self._prefix: Final = user if netns is None else tuple(netns.command(*user))
        self._uid: Final = os.getuid() if uid is None else uid
        self.environ: Final[Mapping[str, str]] = {
            **os.environ,
            "XDG_RUNTIME_DIR": str(runtime),
            "PYTHONPATH": str(_ROOT),
        }

    def vbackend(self, *arguments: str, status: int = 0) -> Outcome:
        """Run a command; AssertionError with its words when it ends with another status."""
        done = subprocess.run(
            [*self._prefix, *VBACKEND, *arguments],
            env=self.environ,
            cwd="/" if self._prefix else None,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=False,
        )
        assert done.returncode == status, f"{arguments}: status {done.returncode}: {done.stdout}{done.stderr}"
        return Outcome(done.returncode, done.stdout, done.stderr)

    def guest(self, vm: str, script: str, *, status: int = 0) -> str:
        """Run a script in a guest; returns its output."""
        return self.vbackend("exec", vm, "--", script, status=status).out

    def status(self, name: str) -> LabStatus:
        return status(name, self.environ)

    def pids(self, name: str) -> dict[str, int]:
        """QEMUs of a lab, by VM, seen without its daemon."""
        return {path.parent.name: pid for path, pid in find_qemus(self.folder(name).vms, self._uid).items()}

    def daemon(self, name: str) -> int | None:
        """The daemon's process, if it lives."""
        return LabLock.holder(self.folder(name))

    def folder(self, name: str) -> LabFolder:
        return LabFolder(name, self.environ)

    def inside(self, name: str, *command: str) -> str:
        """The output of a command in the network namespace of a lab's daemon."""
        return subprocess.run(
            ["nsenter", "-t", str(self.daemon(name)), "-n", *command],
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    def kill_daemon(self, name: str) -> None:
        """SIGKILL, and wait until it is gone."""
        pid = self.daemon(name)
        assert pid is not None, "the daemon lives"
        os.kill(pid, 9)
        wait_until(lambda: not is_served(name, self.environ), "the daemon is gone")

    def left(self) -> list[str]:
        """What is left of labs: QEMUs and files."""
        qemus = [f"QEMU {pid}: {path}" for path, pid in find_qemus(self.runtime, self._uid).items()]
        return qemus + [str(path) for path in (self.runtime / "vbackend").glob("labs/**/*")]


@contextmanager
def lab_runtime(uid: int | None = None, netns: Namespace | None = None) -> Iterator[Labs]:
    """A runtime folder with a short path, since sockets are to lie in it. Every lab is down at the end."""
    runtime = Path(tempfile.mkdtemp(prefix="vbl-", dir="/tmp"))
    labs = Labs(runtime, uid, netns)
    if uid is not None:
        os.chown(runtime, uid, uid)
    try:
        yield labs
    finally:
        for name in lab_names(labs.environ):
            labs.vbackend("down", name) if uid is not None or netns is not None else down(name, labs.environ)
        left = labs.left()
        rmtree(runtime)
    assert not left, left


def dumb_disk(path: Path) -> Path:
    """A disk whose boot sector halts the machine (cli; hlt)."""
    path.write_bytes(b"\xfa\xf4".ljust(510, b"\0") + b"\x55\xaa" + bytes(512 * 127))
    return path
