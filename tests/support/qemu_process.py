"""A QEMU process: started, watched, stopped. Knows nothing of networks or images.

QEMU dies with us, however we end (setpriv --pdeathsig), its output goes to a file, and its monitor is a passed
socket, so nothing is left in the file system. What it was started with is written beside its output.
"""

import asyncio
import contextlib
import os
import shlex
import shutil
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from vbackend.errors import HostError, VbackendError
from vbackend.qemu.qmp import Qmp
from vbackend.qemu.version import QEMU

__all__ = ["QemuProcess", "QemuSpec"]

LAST_WORDS: Final = 2000  # characters of QEMU's output in an error


@dataclass(frozen=True, slots=True)
class QemuSpec:
    """What to start. `pass_fds` are inherited under the same numbers; they stay the caller's."""

    arguments: Sequence[str]  # without the program, -nodefaults and the monitor
    folder: Path  # for its output and its command line; must exist
    binary: str = QEMU
    pass_fds: Sequence[int] = ()


class QemuProcess:
    """A running QEMU with its monitor. `start` makes one, `stop`, `kill` and `close` end it."""

    def __init__(self, process: asyncio.subprocess.Process, qmp: Qmp, log: Path) -> None:
        self._process: Final = process
        self.qmp: Final = qmp
        self.log: Final = log

    @classmethod
    async def start(cls, spec: QemuSpec, *, timeout: float = 30.0) -> Self:
        """Start QEMU and wait until its monitor answers.

        HostError when QEMU or setpriv is not installed; VbackendError with QEMU's own words when it refuses.
        """
        for program, package in ((spec.binary, "qemu-system-x86"), ("setpriv", "util-linux")):
            if shutil.which(program) is None:
                raise HostError(
                    f"cannot start a guest: there is no {program}; on Debian it is in package {package}"
                )
        log = spec.folder / "qemu.log"
        ours, theirs = socket.socketpair()
        with theirs:
            command = [spec.binary, "-nodefaults", "-no-user-config", "-display", "none"]
            command += ["-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control"]
            command += spec.arguments
            (spec.folder / "command").write_text(shlex.join(command) + "\n")
            try:
                process = await cls._spawn(command, log, [*spec.pass_fds, theirs.fileno()])
            except BaseException:
                ours.close()
                raise
        try:
            qmp = await cls._monitor(ours, process, log, timeout)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            ours.close()
            raise
        return cls(process, qmp, log)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; -9 after SIGKILL."""
        return self._process.returncode

    def last_words(self) -> str:
        """The end of what QEMU wrote to stdout and stderr."""
        return _last_words(self.log)

    async def wait(self) -> int:
        """Wait for its end, however it comes."""
        return await self._process.wait()

    async def kill(self) -> None:
        """SIGKILL, as when the host's owner kills a VM; QEMU cleans up nothing."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self.close()

    async def stop(self, *, grace: float = 5.0) -> None:
        """Ask QEMU to quit; SIGKILL when it has not after `grace` seconds."""
        if self.returncode is None:
            with contextlib.suppress(TimeoutError, VbackendError):
                async with asyncio.timeout(grace):
                    await self.qmp.quit()
                    await self._process.wait()
        await self.kill()

    async def close(self) -> None:
        """Wait for the end of a process that was told to end, and close the monitor."""
        await self._process.wait()
        await self.qmp.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @staticmethod
    async def _spawn(command: Sequence[str], log: Path, fds: Iterable[int]) -> asyncio.subprocess.Process:
        with log.open("ab") as sink:
            return await asyncio.create_subprocess_exec(
                "setpriv",
                "--pdeathsig",
                "KILL",
                "--",
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                pass_fds=tuple(fds),
                # Ctrl-C is for us: we end QEMU in order.
                process_group=0,
            )

    @staticmethod
    async def _monitor(
        ours: socket.socket, process: asyncio.subprocess.Process, log: Path, timeout: float
    ) -> Qmp:
        try:
            return await Qmp.connect(ours, timeout=timeout)
        except VbackendError as error:
            # A QEMU that refuses its arguments closes the monitor just before it ends.
            with contextlib.suppress(TimeoutError):
                status = await asyncio.wait_for(process.wait(), min(5.0, timeout))
                raise VbackendError(f"QEMU ended with status {status}: {_last_words(log)}") from error
            raise


def _last_words(log: Path) -> str:
    size = log.stat().st_size
    with log.open("rb") as file:
        file.seek(max(0, size - LAST_WORDS), os.SEEK_SET)
        return file.read().decode(errors="replace").strip() or "it wrote nothing"
