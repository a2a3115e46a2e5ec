"""QEMU processes that outlive whoever started them: started in a session of their own, found again, watched, ended.

A VM's QEMU is known by its `-pidfile` argument, looked for among all processes of this user: the file itself may not
be written yet, or be of a process that is long gone. Whoever holds the lab's lock sees every QEMU of the lab, since a
process that is still between fork and exec holds a copy of the lock.
"""

import asyncio
import contextlib
import os
import select
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from vbackend.errors import HostError

__all__ = ["Process", "find_qemus"]

_PROC: Final = Path("/proc")


def find_qemus(folder: Path, uid: int | None = None) -> dict[Path, int]:
    """The QEMUs of a user, None: of this one, with a pid file anywhere below `folder`: its path, and the number of the
    living process. Also those that know the folder by another name, through a symbolic link."""
    mine, found = os.getuid() if uid is None else uid, {}
    real = _real(folder)
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if entry.stat().st_uid != mine:
                continue
            path = _pidfile((entry / "cmdline").read_bytes())
            if path is not None and path.is_relative_to(real):
                found[folder / path.relative_to(real)] = int(entry.name)
    return found


def _pidfile(cmdline: bytes) -> Path | None:
    words = cmdline.split(b"\0")
    if b"-pidfile" not in words[:-1]:
        return None
    path = Path(os.fsdecode(words[words.index(b"-pidfile") + 1]))
    return _real(path) if path.is_absolute() else None


def _real(path: Path) -> Path:
    """Not Path.resolve, which raises where links are in a circle."""
    return Path(os.path.realpath(path))


class Process:
    """One running process, ours or somebody else's child. `ended` is done with why."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid: Final = pid
        self._pidfd = pidfd
        self.ended: Final[asyncio.Future[str]] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(pidfd, self._on_end)

    @classmethod
    def spawn(cls, command: Sequence[str], log: Path, environ: Mapping[str, str]) -> Self:
        """Start a program, given by its path, which writes to `log`; it gets no signals of our terminal.

        HostError: there is no such program.
        """
        append = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        defaults = [signal.SIGPIPE, signal.SIGXFSZ]  # as the interpreter found them
        try:
            pid = os.posix_spawn(
                command[0], list(command), environ, file_actions=actions, setsid=True, setsigdef=defaults
            )
        except OSError as error:
            raise HostError(f"cannot start {command[0]}: {error.strerror}") from None
        return cls(pid, os.pidfd_open(pid))

    @classmethod
    def adopt(cls, pid: int, mark: Path) -> Self | None:
        """Watch the QEMU whose pid file is `mark`; None: it has ended."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        try:
            same = _pidfile((_PROC / str(pid) / "cmdline").read_bytes()) == _real(mark)
        except OSError:
            same = False
        if not same:
            os.close(pidfd)
            return None
        return cls(pid, pidfd)

    def kill(self) -> None:
        """SIGKILL; nothing when it has ended or is not watched any more."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def has_ended(self) -> bool:
        """Whether it has, also when the loop has not heard of it yet."""
        if self._pidfd < 0:
            return self.ended.done()
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))

    async def wait(self) -> str:
        """Wait for the end, and say why."""
        return await asyncio.shield(self.ended)

    def release(self) -> None:
        """Stop watching; it lives on."""
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _on_end(self) -> None:
        try:
            found = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:  # not our child
            why = "it ended"
        else:
            if found is None:
                return  # of a process that is no zombie yet
            how = "with status" if found.si_code == os.CLD_EXITED else "by signal"
            why = f"it ended {how} {found.si_status}"
        self.release()
        if not self.ended.done():
            self.ended.set_result(why)
