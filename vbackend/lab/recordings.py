"""The [[capture]]s of a lab: pcapng files that are written while it runs.

The first daemon of a lab begins a file anew; one that takes over, and a capture that is stopped and started again,
append a section to it. What a killed daemon wrote of a block is cut off first.
"""

import asyncio
import errno
import logging
import os
import stat
import struct
from pathlib import Path
from typing import BinaryIO, Final

from vbackend.backend import Backend
from vbackend.errors import HostError
from vbackend.lab.model import Capture
from vbackend.lab.state import LabFolder, replace_file

__all__ = ["Recordings", "whole_length"]

log = logging.getLogger(__name__)

_BLOCK: Final = struct.Struct("<II")  # type, total length: at the start of each block of a pcapng file
_LEAST: Final = 12
_CHUNK: Final = 1 << 18
_END_S: Final = 5.0


def whole_length(file: BinaryIO) -> int:
    """How many bytes of a pcapng file of ours are whole blocks."""
    size = os.fstat(file.fileno()).st_size
    end = 0
    while end + _BLOCK.size <= size:
        file.seek(end)
        _, length = _BLOCK.unpack(file.read(_BLOCK.size))
        if length < _LEAST or end + length > size:
            break
        end += length
    return end


class Recordings:
    """Those that run, by file."""

    def __init__(self, folder: LabFolder, backend: Backend) -> None:
        self._folder: Final = folder
        self._backend: Final = backend
        self._begun: Final = folder.root / "captures"  # files of this lab, one a line
        self._running: Final[dict[str, tuple[asyncio.StreamWriter, asyncio.Task[None]]]] = {}

    async def start(self, capture: Capture) -> None:
        """HostError: the file cannot be written. ConfigError: no such link, not a filter."""
        file, writer = self._open(capture.file), None
        try:
            place = await self._backend.capture(
                links=capture.links, expression=capture.filter, beside=str(self._folder.control)
            )
            reader, writer = await asyncio.open_unix_connection(place)
            async with asyncio.timeout(_END_S):
                file.write(await reader.readexactly(_BLOCK.size))  # from now on every frame is recorded
        except BaseException:
            if writer is not None:
                writer.close()
            file.close()
            raise
        task = asyncio.create_task(_copy(reader, file, capture.file), name=f"capture {capture.file}")
        self._running[capture.file] = (writer, task)

    async def stop(self, file: str) -> None:
        """What was captured until now is in the file when this returns."""
        writer, task = self._running.pop(file)
        if writer.can_write_eof() and not task.done():
            writer.write_eof()
        await asyncio.wait((task,), timeout=_END_S)
        task.cancel()
        writer.close()
        await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        """Stop them all."""
        for file in list(self._running):
            await self.stop(file)

    def _open(self, name: str) -> BinaryIO:
        begun = self._begun.read_text(encoding="utf-8").splitlines() if self._begun.exists() else []
        try:
            again = name in begun and Path(name).exists()
            file = _opened(name, anew=not again)
            end = whole_length(file) if again else 0
            file.truncate(end)
            file.seek(end)
        except OSError as error:
            raise HostError(f"capture {name!r}: cannot write it: {error.strerror}") from None
        replace_file(self._begun, "".join(f"{each}\n" for each in dict.fromkeys([*begun, name])))
        return file


def _opened(name: str, *, anew: bool) -> BinaryIO:
    """Without waiting for somebody who reads, should it be a named pipe: that fails."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC if anew else os.O_RDWR
    fd = os.open(name, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is no file")
        return os.fdopen(fd, "wb" if anew else "r+b", buffering=0)
    except BaseException:
        os.close(fd)
        raise


async def _copy(reader: asyncio.StreamReader, file: BinaryIO, name: str) -> None:
    try:
        with file:
            while data := await reader.read(_CHUNK):
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
    except OSError as error:
        log.error("capture %s: what comes from now on is lost: %s", name, error.strerror)
