"""The guest's end of a port without a guest: what QEMU's netdevs do on the wire, and what they never should.

`FakeStreamPeer` speaks `-netdev stream`, `FakeDgramPeer` `-netdev dgram`. Both are bytes on a socket: nothing
is checked or repaired, so that a test can be as rude as it likes. Waiting has a deadline everywhere.
"""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Final, Self, TypeVar

from tests.support.frames import stream

__all__ = ["FakeDgramPeer", "FakeStreamPeer", "eventually", "within"]

DEADLINE_S: Final = 20.0

Address = str | tuple[str, int]
T = TypeVar("T")


async def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until `condition()` is true. AssertionError with `what` when it is not within the deadline."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + DEADLINE_S
    while not condition():
        assert loop.time() < deadline, f"not within {DEADLINE_S:.0f} s: {what}"
        await asyncio.sleep(0.005)


class FakeStreamPeer:
    """A stream socket with QEMU's 4-byte lengths. Reads only when asked: not asking is a stalled guest."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock: Final = sock
        self._got = bytearray()

    @classmethod
    async def connect(cls, address: Address) -> Self:
        """As QEMU with `server=off`: a path, "@name" or (host, port)."""
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await within(asyncio.get_running_loop().sock_connect(sock, _place(address)), "connect")
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    @staticmethod
    def listen(address: Address) -> socket.socket:
        """As QEMU with `server=on`; give the result to `accept`. The caller closes it."""
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.bind(_place(address))
            sock.listen(1)
        except BaseException:
            sock.close()
            raise
        return sock

    @classmethod
    async def accept(cls, listener: socket.socket) -> Self:
        """The next connection to a `listen` socket."""
        sock, _ = await within(asyncio.get_running_loop().sock_accept(listener), "accept")
        return cls(sock)

    async def send_frames(self, *frames: bytes) -> None:
        """All frames in one write."""
        await self.send_raw(stream(*frames))

    async def send_split(self, frames: Iterable[bytes], cuts: Iterable[int]) -> None:
        """The frames' bytes in several writes, cut at these offsets; the reader may run in between."""
        data, start = stream(*frames), 0
        for cut in [*sorted(cuts), len(data)]:
            await self.send_raw(data[start:cut])
            start = cut
            await asyncio.sleep(0)

    async def send_raw(self, data: bytes) -> None:
        """Any bytes at all."""
        await within(asyncio.get_running_loop().sock_sendall(self.sock, data), "send")

    async def send_half_and_die(self, frame: bytes) -> None:
        """The length and half of a frame, then no more: the process was killed."""
        data = stream(frame)
        await self.send_raw(data[: 4 + len(frame) // 2])
        self.close()

    async def recv_frame(self) -> bytes:
        """The next frame. EOFError when the backend closed; AssertionError when none comes."""
        while (frame := self._take()) is None:
            await self._read()
        return frame

    async def recv_frames(self, count: int) -> list[bytes]:
        return [await self.recv_frame() for _ in range(count)]

    async def expect_eof(self) -> None:
        """Wait for the backend to close; frames that come first are read and forgotten."""
        try:
            while True:
                await self._read()
        except EOFError:
            return

    def fill(self, data: bytes) -> int:
        """Write without waiting until the socket is full; returns how many bytes went in."""
        sent = 0
        while sent < len(data):
            try:
                sent += self.sock.send(data[sent:])
            except BlockingIOError:
                break
        return sent

    def close(self) -> None:
        self.sock.close()

    def _take(self) -> bytes | None:
        if len(self._got) < 4:
            return None
        (length,) = struct.unpack_from(">I", self._got)
        if len(self._got) < 4 + length:
            return None
        frame = bytes(self._got[4 : 4 + length])
        del self._got[: 4 + length]
        return frame

    async def _read(self) -> None:
        try:
            data = await within(asyncio.get_running_loop().sock_recv(self.sock, 1 << 18), "receive")
        except ConnectionResetError:
            data = b""
        if not data:
            raise EOFError("the backend closed the connection")
        self._got += data

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class FakeDgramPeer:
    """A datagram socket bound to one address that sends to another."""

    def __init__(self, sock: socket.socket, remote: Address | None) -> None:
        sock.setblocking(False)
        self.sock: Final = sock
        self._remote = remote

    @classmethod
    def bind(cls, local: Address, remote: Address) -> Self:
        """`local` is its own address, `remote` the backend's."""
        family = socket.AF_UNIX if isinstance(local, str) else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.bind(_place(local))
        except BaseException:
            sock.close()
            raise
        return cls(sock, remote)

    async def send(self, frame: bytes) -> None:
        """One datagram, of any size."""
        if self._remote is None:
            await within(asyncio.get_running_loop().sock_sendall(self.sock, frame), "send")
        else:
            sending = asyncio.get_running_loop().sock_sendto(self.sock, frame, _place(self._remote))
            await within(sending, "send")

    async def recv(self) -> bytes:
        """The next datagram."""
        return await within(asyncio.get_running_loop().sock_recv(self.sock, 1 << 17), "receive")

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _place(address: Address) -> Address:
    return "\0" + address[1:] if isinstance(address, str) and address.startswith("@") else address


async def within(waiting: Awaitable[T], what: str) -> T:
    """The result. AssertionError with `what` when there is none within the deadline."""
    try:
        return await asyncio.wait_for(waiting, DEADLINE_S)
    except TimeoutError:
        raise AssertionError(f"{what}: nothing within {DEADLINE_S:.0f} s") from None
