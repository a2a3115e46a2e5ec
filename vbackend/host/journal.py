"""What is to be undone when the process that did it was killed: a file of changes per process, and the sweep.

A journal belongs to a living process exactly while that process holds its lock, so a recycled process number means
nothing. It is written before a change is made: a change that was never made is harmless to undo.
"""

import fcntl
import logging
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final, TextIO

from vbackend.host.changes import AddressAdded, BridgeMade, JoinedBridge, LinkSet, parse_change

__all__ = ["AnyChange", "Journal", "journal_dir", "sweep"]

log = logging.getLogger(__name__)

AnyChange = BridgeMade | AddressAdded | JoinedBridge | LinkSet

_SUFFIX: Final = ".journal"


def journal_dir() -> Path:
    """Where journals lie: of root in /run/vbackend, of others in their runtime directory."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(base if base.startswith("/") and os.geteuid() != 0 else "/run") / "vbackend"


class Journal:
    """The changes of this process. The file exists while there are any."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = journal_dir() if directory is None else directory
        self._file: TextIO | None = None
        self._path: Path | None = None
        self._changes: list[AnyChange] = []

    def record(self, change: AnyChange) -> None:
        """Note a change that is about to be made. OSError: the journal cannot be written."""
        if self._file is None:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path = self._directory / f"{os.getpid()}-{uuid.uuid4().hex[:8]}{_SUFFIX}"
            # Locked before it has its name: a sweep never sees it unlocked.
            hidden = self._path.with_suffix(".new")
            self._file = hidden.open("w")
            fcntl.flock(self._file, fcntl.LOCK_EX)
            hidden.rename(self._path)
        self._changes.append(change)
        self._file.write(change.model_dump_json() + "\n")
        self._file.flush()

    def forget(self, change: AnyChange) -> None:
        """Note that a change is undone."""
        if change in self._changes:
            self._changes.remove(change)
        if self._file is not None and not self._changes:
            self._file.close()
            self._file = None
            if self._path is not None:
                self._path.unlink(missing_ok=True)

    @property
    def changes(self) -> tuple[AnyChange, ...]:
        """What is not undone yet, oldest first."""
        return tuple(self._changes)


def sweep(undo: Callable[[AnyChange], None], directory: Path | None = None) -> int:
    """Undo, newest first, what dead processes left; returns how many journals there were.

    A change that cannot be undone is logged and given up: it is not tried again at every start.
    """
    swept = 0
    for path in sorted((journal_dir() if directory is None else directory).glob(f"*{_SUFFIX}")):
        try:
            with path.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                lines = file.read().splitlines()
                _undo_all(path, lines, undo)
                path.unlink(missing_ok=True)
        except BlockingIOError:
            continue
        except OSError as error:
            log.warning("cannot read journal %s of a dead process: %s", path, error)
            continue
        swept += 1
    return swept


def _undo_all(path: Path, lines: list[str], undo: Callable[[AnyChange], None]) -> None:
    for line in reversed(lines):
        try:
            change = parse_change(line)
        except ValueError:
            log.warning("journal %s: a line was cut short and is skipped: %r", path, line)
            continue
        try:
            undo(change)
        except (OSError, RuntimeError, ValueError) as error:
            log.warning("cannot undo what a killed vbackend left (%s): %s", change, error)
