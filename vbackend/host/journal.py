"""What is to be undone when the process that did it was killed: a file of changes per process, and the sweep.

A line is a change in JSON, or "undone" and a change. A journal belongs to a living process exactly while that
process holds its lock, so a recycled process number means nothing. Rule: a change is written before it is made and
crossed out after it is undone, so a kill leaves a line too many, never one too few.
"""

import contextlib
import errno
import fcntl
import logging
import os
import uuid
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from vbackend.errors import VbackendError
from vbackend.host.changes import AnyChange, parse_change

__all__ = ["Journal", "journal_dir", "still_made", "sweep", "undo_all"]

log = logging.getLogger(__name__)

_SUFFIX: Final = ".journal"
_UNDONE: Final = "undone "


def journal_dir() -> Path:
    """Where journals lie: of root in /run/vbackend, of others in their runtime directory."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(base if base.startswith("/") and os.geteuid() != 0 else "/run") / "vbackend"


class Journal:
    """The changes of this process. The file exists while there are any."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory: Final = journal_dir() if directory is None else directory
        self._file: BinaryIO | None = None
        self._path: Path | None = None
        self._changes: list[AnyChange] = []
        self._warned = False

    def record(self, change: AnyChange) -> None:
        """Note a change that is about to be made.

        Where the journal cannot be written, a warning says that a crash will leave things behind.
        """
        self._changes.append(change)
        try:
            if self._file is None:
                self._file = self._create()
            self._write(change.model_dump_json())
        except OSError as error:
            if not self._warned:
                self._warned = True
                log.warning(
                    "cannot keep a journal in %s: %s; should vbackend be killed, the host's devices stay as it set "
                    "them; set XDG_RUNTIME_DIR to a directory of yours",
                    self.directory,
                    error.strerror,
                )

    def forget(self, change: AnyChange) -> None:
        """Note that a change is undone."""
        if change not in self._changes:
            return
        self._changes.remove(change)
        if self._file is not None:
            with contextlib.suppress(OSError):  # a line too many
                self._write(f"{_UNDONE}{change.model_dump_json()}")
            if not self._changes:
                self.close()

    def close(self) -> None:
        """Close the file and, when it lists nothing any more, remove it. What it lists is left to a later sweep."""
        if self._file is not None:
            file, self._file = self._file, None
            if not self._changes and self._path is not None:
                self._path.unlink(missing_ok=True)
            file.close()

    @property
    def changes(self) -> tuple[AnyChange, ...]:
        """What is not undone yet, oldest first."""
        return tuple(self._changes)

    def _write(self, line: str) -> None:
        """A line of its own, also behind one that was cut short when there was no space."""
        assert self._file is not None, "it is open while there are changes"
        data = f"\n{line}\n".encode()
        if self._file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _create(self) -> BinaryIO:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.directory / f"{os.getpid()}-{uuid.uuid4().hex[:8]}{_SUFFIX}"
        # Locked before it has its name: a sweep never sees it unlocked.
        hidden = path.with_suffix(".new")
        file = hidden.open("wb", buffering=0)
        fcntl.flock(file, fcntl.LOCK_EX)
        hidden.rename(path)
        self._path = path
        return file


def still_made(lines: Iterable[str]) -> list[AnyChange]:
    """The changes that are not undone, newest first. Pure; a line that was cut short by the kill is skipped."""
    changes: list[AnyChange] = []
    for line in filter(None, lines):
        try:
            change = parse_change(line.removeprefix(_UNDONE))
        except ValueError:
            log.warning("a journal's line was cut short and is skipped: %r", line)
            continue
        if not line.startswith(_UNDONE):
            changes.append(change)
        elif change in changes:
            changes.remove(change)
    return changes[::-1]


def undo_all(undo: Callable[[AnyChange], bool], changes: list[AnyChange]) -> list[AnyChange]:
    """Undo in this order; what `undo` says of that it is in use (False) once more, as long as others get undone.

    Returns what is left.
    """
    while left := [change for change in changes if not undo(change)]:
        if len(left) == len(changes):
            return left
        changes = left
    return []


def sweep(undo: Callable[[AnyChange], bool], directory: Path) -> int:
    """Undo, newest first, what dead processes left; returns how many journals are done with.

    A journal stays while `undo` says of one of its changes that others use the thing still (False). A change that
    cannot be undone is logged and given up: it is not tried again at every start.
    """
    swept = 0
    for path in sorted(directory.glob(f"*{_SUFFIX}")):
        try:
            with path.open("r+", encoding="utf-8", errors="replace") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(file.fileno()).st_nlink == 0:  # another sweep was faster
                    continue
                left = undo_all(partial(_undone, undo), still_made(file.read().splitlines()))
                if not left:
                    path.unlink(missing_ok=True)
                    swept += 1
                    continue
                file.seek(0)
                file.writelines(change.model_dump_json() + "\n" for change in reversed(left))
                file.truncate()
        except (BlockingIOError, FileNotFoundError):
            continue
        except OSError as error:
            log.warning("cannot read journal %s of a dead process: %s", path, error)
    return swept


def _undone(undo: Callable[[AnyChange], bool], change: AnyChange) -> bool:
    try:
        return undo(change)
    except (OSError, VbackendError) as error:
        log.warning("cannot undo what a killed vbackend left (%s): %s", change, error)
        return True
