"""The device face of a tun unit for programs in this process: what a file of /dev/tunN is elsewhere.

A raw file: one `read` is one packet, one `write` is one packet. `fileno()` is for select, poll, epoll and asyncio
only: it polls as the device does (rules P1, K1), but reading or writing it directly is nobody's packet.

Errors are `OSError` with the driver's errno, and EBADF once closed. A `read` that waits ends with ENXIO when the
unit is destroyed, with EBADF when another thread closes the file, with EINTR when a signal comes.
"""

import asyncio
import errno
import os
import select
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Final, NamedTuple, Protocol, Self, TypeVar

from vbackend.dataplane import NativeUnit
from vbackend.tun.vocabulary import Header, Ioctl, TunFlag

__all__ = ["EVFILT_READ", "EVFILT_WRITE", "Kevent", "TunFile", "open"]

T = TypeVar("T")

EVFILT_READ, EVFILT_WRITE = 0, 1  # NetBSD sys/event.h
_LARGEST: Final = 1 << 17  # more than any packet with any header


class _Driver(Protocol):
    """What a file needs of the driver."""

    def open(
        self, number: int, *, header: Header | None = None, nonblocking: bool | None = None
    ) -> "TunFile": ...
    def close(self, number: int, ticket: int | None = None) -> None: ...
    def ioctl(self, number: int, request: int, value: int = 0, ticket: int | None = None) -> int: ...
    def held(self, native: NativeUnit) -> None: ...


class _Interface(Protocol):
    """What a file needs of its unit."""

    @property
    def driver(self) -> _Driver: ...
    @property
    def number(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def native(self) -> NativeUnit: ...
    @property
    def rate(self) -> int: ...
    @property
    def flags(self) -> TunFlag: ...
    @property
    def index(self) -> int: ...
    @property
    def file(self) -> "TunFile | None": ...


class Kevent(NamedTuple):
    """What a kevent filter says: whether it fires, and its `data`."""

    fires: bool
    data: int


def open(unit: _Interface, *, header: Header | None = None, nonblocking: bool | None = None) -> "TunFile":
    """Open a unit's device face. None leaves what the last open had (X3). EPERM, EBUSY, EINVAL."""
    return unit.driver.open(unit.number, header=header, nonblocking=nonblocking)


class TunFile:
    """An open device face. Any thread may use it; close it, or use it in a `with`."""

    def __init__(self, driver: _Driver, unit: _Interface, ticket: int) -> None:
        self._driver: Final = driver
        self._unit: Final = unit
        self._native: Final = unit.native
        self._ticket: Final = ticket
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._closed = False

    @property
    def name(self) -> str:
        return self._unit.name

    @property
    def closed(self) -> bool:
        """Also when the driver closed it."""
        return self._closed or self._unit.file is not self

    def fileno(self) -> int:
        """A descriptor that polls as the device does, this file's until it is closed."""
        return self._native.poll_fd(self._ticket)

    # Reading (if_tun.c tunread)

    def read(self, size: int = _LARGEST) -> bytes:
        """One packet, cut at `size` bytes: the rest is lost (R2). Waits, or EWOULDBLOCK with NBIO (R3)."""
        packet = self._native.read(self._ticket, _LARGEST if size < 0 else size)
        if self._unit.rate:
            self._driver.held(self._native)
        return packet

    def readv(self, buffers: Sequence[bytearray | memoryview]) -> int:
        """One packet into `buffers`, one behind the other; returns how many bytes. EFAULT: one is read-only (R5)."""
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        packet = self.read(sum(map(len, views)))
        left = packet
        for view in views:
            now, left = left[: len(view)], left[len(view) :]
            if now and view.readonly:
                self._native.count_copy_error()
                raise OSError(errno.EFAULT, f"read {self.name}: a buffer is read-only; the packet is lost")
            view[: len(now)] = now
        return len(packet)

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """One packet into `buffer`; returns how many bytes."""
        return self.readv([buffer])

    def read_batch(self, most: int = 256) -> list[bytes]:
        """The packets that are here now, up to `most`, without waiting."""
        packets = self._native.read_batch(self._ticket, most)
        if self._unit.rate:
            self._driver.held(self._native)
        return packets

    # Writing (if_tun.c tunwrite)

    def write(self, packet: bytes | bytearray | memoryview) -> int:
        """One packet for the guest, whole or an error: EIO, EAFNOSUPPORT, ENOBUFS, ENXIO (W1 to W6). Never waits."""
        return self._native.write(self._ticket, packet if isinstance(packet, bytes) else bytes(packet))

    def writev(self, buffers: Sequence[bytes | bytearray | memoryview]) -> int:
        """One packet that lies in several buffers."""
        return self.write(b"".join(buffers))

    # The rest of the device

    def ioctl(self, request: Ioctl | int | str, value: int = 0) -> int:
        """A request by number or name; returns what a getter got, else 0 (I1). ENOTTY, EINVAL, EBUSY, ENXIO."""
        self._require_open()
        if isinstance(request, str):
            number: int = Ioctl.__members__.get(request, -1)
        else:
            number = request
        return self._driver.ioctl(self._unit.number, number, value, self._ticket)

    def poll(self, events: int) -> int:
        """What of `events` is so now: poll(2) without a descriptor (P1)."""
        self._require_open()
        says = select.poll()
        says.register(self.fileno(), events)
        return next((found for _, found in says.poll(0)), 0)

    def kevent(self, filter_: int) -> Kevent:
        """What a filter says that is attached now (if_tun.c tunkqfilter, filt_tunread; K1).

        Nothing fires when the unit was destroyed. EINVAL: not EVFILT_READ, EVFILT_WRITE.
        """
        self._require_open()
        if not self._unit.flags & TunFlag.INITED:
            return Kevent(False, 0)
        if filter_ == EVFILT_WRITE:
            return Kevent(True, 0)
        if filter_ == EVFILT_READ:
            readable = self._native.readable()
            return Kevent(readable, self._native.first_len() if readable else 0)
        raise OSError(errno.EINVAL, f"kevent filter {filter_} on {self.name}: EVFILT_READ or EVFILT_WRITE")

    def close(self) -> None:
        """Give the device face back (X1 to X3); a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._driver.close(self._unit.number, self._ticket)

    # asyncio

    async def aread(self, size: int = _LARGEST) -> bytes:
        """As `read`, for a task: others run while it waits."""

        def one() -> bytes:
            packet = self._native.read(self._ticket, _LARGEST if size < 0 else size, nonblocking=True)
            if self._unit.rate:
                self._driver.held(self._native)
            return packet

        return await self._when_readable(one)

    async def aread_batch(self, most: int = 256) -> list[bytes]:
        """At least one packet, and those that are here with it, up to `most`."""

        def batch() -> list[bytes]:
            if packets := self.read_batch(most):
                return packets
            raise BlockingIOError

        return await self._when_readable(batch)

    async def awrite(self, packet: bytes | bytearray | memoryview) -> int:
        """As `write`, which never waits."""
        return self.write(packet)

    async def _when_readable(self, read: Callable[[], T]) -> T:
        index = self._unit.index
        with suppress(BlockingIOError):
            return read()
        with self._watched() as look_again:
            while True:
                with suppress(BlockingIOError):
                    return read()
                await look_again.wait()
                look_again.clear()
                if self._unit.index != index and not self.closed:  # R4
                    raise OSError(errno.ENXIO, f"read {self.name}: another interface has its number now")

    @contextmanager
    def _watched(self) -> Iterator[asyncio.Event]:
        """An event that is set whenever a read may find something else than before."""
        loop, event = asyncio.get_running_loop(), asyncio.Event()
        fd = os.dup(self.fileno())  # lives as long as we watch it, whenever the file is closed
        waiter = (loop, event)
        self._waiting.append(waiter)
        loop.add_reader(fd, event.set)
        try:
            yield event
        finally:
            self._waiting.remove(waiter)
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.remove_reader(fd)
            os.close(fd)

    def wake(self) -> None:
        """Let tasks that wait look again: the unit was destroyed. (Threads are woken by the engine.)"""
        for loop, event in list(self._waiting):
            with suppress(RuntimeError):  # its loop was closed while it waited: nobody is there to look
                loop.call_soon_threadsafe(event.set)

    # What makes it a raw file

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def flush(self) -> None:
        """Nothing is buffered."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _require_open(self) -> None:
        if self.closed:
            raise OSError(errno.EBADF, f"{self.name}: the file is closed")
