"""A client of a VDE switch, as libvdeplug is one: its request, its data socket, frames as datagrams.

    with await FakeVdeClient.plug(directory, tmp_path / "a") as client:
        await client.send(frame)

Nothing is checked or repaired, so that a test can be as rude as it likes. Waiting has a deadline everywhere.
"""

import asyncio
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.support.qemu_peers import within

__all__ = ["FakeVdeClient", "address", "connect", "request"]

MAGIC: Final = 0xFEEDFACE
PATH_BYTES: Final = 108


def address(path: bytes, family: int = socket.AF_UNIX) -> bytes:
    """A sockaddr_un."""
    return struct.pack(f"=H{PATH_BYTES}s", family, path)


def request(
    path: bytes,
    *,
    port: int = 0,
    version: int = 3,
    kind: int = 0,
    magic: int = MAGIC,
    family: int = socket.AF_UNIX,
    description: bytes = b"fake",
) -> bytes:
    """What a client says first. Version 1 has an Ethernet address, which nobody looks at."""
    head = struct.pack("=III", magic, version, kind | port << 8)
    if version == 1:
        head = struct.pack("=II6s", magic, kind | port << 8, b"\x52\x54\0\0\0\1")
    return head + address(path, family) + description


async def connect(directory: str | Path) -> socket.socket:
    """The control connection, without a word."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await within(asyncio.get_running_loop().sock_connect(sock, f"{directory}/ctl"), "connect")
    except BaseException:
        sock.close()
        raise
    return sock


class FakeVdeClient:
    """A client that has a port. `control` and `data` are its sockets, `switch` the path it was told."""

    def __init__(self, control: socket.socket, data: socket.socket, switch: bytes) -> None:
        self.control: Final = control
        self.data: Final = data
        self.switch: Final = switch

    @classmethod
    async def plug(
        cls,
        directory: str | Path,
        local: str | Path | bytes,
        *,
        port: int = 0,
        version: int = 3,
        kind: int = 0,
        connected: bool = True,
    ) -> Self:
        """Bind `local`, a path or NUL and a name, and ask for a port. EOFError: it was refused.

        `connected`: as libvdeplug; else frames are sent by address, as user-mode Linux does.
        """
        place = local if isinstance(local, bytes) else os.fsencode(local)
        data = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        control = await connect(directory)
        try:
            data.setblocking(False)
            data.bind(place)
            await within(
                asyncio.get_running_loop().sock_sendall(
                    control, request(place, port=port, version=version, kind=kind)
                ),
                "ask",
            )
            switch = await cls.hear(control)
            if connected:
                data.connect(switch)
        except BaseException:
            data.close()
            control.close()
            raise
        return cls(control, data, switch)

    @staticmethod
    async def hear(control: socket.socket) -> bytes:
        """The path in the switch's answer. EOFError: it closed the connection."""
        told = b""
        while len(told) < 2 + PATH_BYTES:
            try:
                more = await within(asyncio.get_running_loop().sock_recv(control, 4096), "the answer")
            except ConnectionResetError:
                more = b""
            if not more:
                raise EOFError("the switch closed the connection")
            told += more
        family, path = struct.unpack(f"=H{PATH_BYTES}s", told)
        assert family == socket.AF_UNIX, told
        name: bytes = path.rstrip(b"\0")
        return name

    async def send(self, frame: bytes) -> None:
        """One datagram, of any size."""
        await within(asyncio.get_running_loop().sock_sendall(self.data, frame), "send")

    async def send_by_address(self, frame: bytes) -> None:
        """The same on a socket that is not connected."""
        await within(asyncio.get_running_loop().sock_sendto(self.data, frame, self.switch), "send")

    async def recv(self) -> bytes:
        """The next datagram."""
        return await within(asyncio.get_running_loop().sock_recv(self.data, 1 << 17), "receive")

    async def expect_eof(self) -> None:
        """Wait until the switch closes the control connection."""
        with suppress(ConnectionResetError):
            assert await within(asyncio.get_running_loop().sock_recv(self.control, 1), "the end") == b""

    def close(self) -> None:
        self.control.close()
        self.data.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
