"""What the socket ports share: resolving, tuning, and saying who the peer is.

Not here: opening sockets of one kind (listener.py, stream.py, dgram.py). Rule: a limit the host sets on
buffers is taken as it is, without an error.
"""

import asyncio
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final

from vbackend.errors import ConfigError
from vbackend.ports.spec import TcpAddress, UnixAddress

__all__ = [
    "DGRAM_BUFFER",
    "STREAM_BUFFER",
    "SocketAddress",
    "address_text",
    "engine_address",
    "peer_pid",
    "peer_text",
    "peer_uid",
    "raise_buffers",
    "resolve",
    "tune_stream",
]

STREAM_BUFFER: Final = 1 << 20  # bytes; the default holds about 93 frames of 1442 bytes (protocols.md 1.5)
DGRAM_BUFFER: Final = 4 << 20  # bytes; less loses bursts on UDP (protocols.md 1.5)

SocketAddress = tuple[str, int] | tuple[str, int, int, int]

_SO_SNDBUFFORCE: Final = 32  # asm-generic/socket.h; needs CAP_NET_ADMIN, passes net.core.wmem_max
_SO_RCVBUFFORCE: Final = 33
_KEEPALIVE: Final = (
    (socket.TCP_KEEPIDLE, 10),
    (socket.TCP_KEEPINTVL, 5),
    (socket.TCP_KEEPCNT, 3),
)  # seconds, tries
_UCRED: Final = struct.Struct("iII")  # pid, uid, gid (unix(7))


async def resolve(address: TcpAddress, kind: socket.SocketKind) -> tuple[socket.AddressFamily, SocketAddress]:
    """The first address of a host. ConfigError when its name is unknown."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(address.host, address.port, type=kind)
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(
            f"host name {address.host!r} does not resolve: {_words(error)}; give an IP address"
        ) from None
    for family, _, _, _, place in found:
        if family in (socket.AF_INET, socket.AF_INET6) and isinstance(place[0], str):
            return family, place
    raise ConfigError(
        f"host name {address.host!r} has neither an IPv4 nor an IPv6 address; give an IP address"
    )


def tune_stream(sock: socket.socket) -> None:
    """Non-blocking, large buffers; on TCP no Nagle delay, and a vanished peer is noticed in half a minute."""
    sock.setblocking(False)
    raise_buffers(sock, STREAM_BUFFER)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def raise_buffers(sock: socket.socket, size: int) -> None:
    """Raise both buffers to `size` bytes, or as far as net.core.{r,w}mem_max allows; never lower them."""
    for plain, force in ((socket.SO_SNDBUF, _SO_SNDBUFFORCE), (socket.SO_RCVBUF, _SO_RCVBUFFORCE)):
        if sock.getsockopt(socket.SOL_SOCKET, plain) >= size:
            continue
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, size)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, plain, size)


def peer_text(sock: socket.socket) -> str:
    """Who is at the other end: "unix pid 4711 (qemu-system-x86)", "127.0.0.1:5555"."""
    if sock.family == socket.AF_UNIX:
        pid = peer_pid(sock)
        return f"unix pid {pid} ({_command(pid)})" if pid > 0 else "unix"
    try:
        return address_text(sock.getpeername())
    except OSError:  # it left already
        return "unknown"


def peer_pid(sock: socket.socket) -> int:
    """The process that connected, listened or made the pair; 0 when it is of another pid namespace."""
    return _credentials(sock)[0]


def peer_uid(sock: socket.socket) -> int:
    """The user that connected, listened or made the pair, at that moment."""
    return _credentials(sock)[1]


def address_text(place: SocketAddress) -> str:
    """IP:PORT, IPv6 in brackets."""
    return f"[{place[0]}]:{place[1]}" if ":" in place[0] else f"{place[0]}:{place[1]}"


def engine_address(place: UnixAddress | SocketAddress) -> str:
    """An address as the engine's attach_dgram takes it."""
    return f"unix:{place.path}" if isinstance(place, UnixAddress) else address_text(place)


def _credentials(sock: socket.socket) -> tuple[int, int, int]:
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid, gid


def _words(error: OSError | UnicodeError) -> str:
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)


def _command(pid: int) -> str:
    with suppress(OSError):  # gone, or another user's with hidepid
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    return "?"
