"""What a client of a VDE switch says on its control connection, and what it is answered. Pure.

    version 3: magic u32, 3 u32, type u32, sockaddr_un, description without a NUL
    version 1: magic u32, type u32, Ethernet address, sockaddr_un, description
    answer:    sockaddr_un of the switch's end

All in the host's byte order. The address is the client's datagram socket: a path (libvdeplug) or an abstract name,
whose 107 bytes may be any (user-mode Linux). `type` is 0 for a port, 1 for the port with the number 0; a number that
is wanted stands in the bytes above the lowest.

Sources: vde-2 src/vde_switch/datasock.c, vdeplug4 libvdeplug_vde.c, Linux arch/um/drivers/daemon_user.c.
"""

import sys
from dataclasses import dataclass
from typing import Final

# declares the layouts that would be offsets and struct formats
from construct import Bytes, Int16un, Int32un, Padding, Struct

from vbackend.errors import PeerError

__all__ = ["MOST_DESCRIPTION", "PATH_BYTES", "Request", "answer", "parse_request"]

PATH_BYTES: Final = 108  # sizeof(sun_path) (linux/un.h)
MOST_DESCRIPTION: Final = 128  # MAXDESCR of libvdeplug

_MAGIC: Final = 0xFEEDFACE.to_bytes(4, sys.byteorder)
_UNIX: Final = 1  # AF_UNIX
_PORT, _PORT_0 = 0, 1  # enum request_type

_ADDRESS: Final = Struct("family" / Int16un, "path" / Bytes(PATH_BYTES))
_START: Final = Struct("magic" / Bytes(4), "version" / Int32un)
_VERSION_1: Final = Struct("magic" / Bytes(4), "type" / Int32un, Padding(6), "address" / _ADDRESS)
_VERSION_3: Final = Struct("magic" / Bytes(4), "version" / Int32un, "type" / Int32un, "address" / _ADDRESS)


@dataclass(frozen=True, slots=True)
class Request:
    """A client wants a port."""

    socket: bytes  # its datagram socket, as connect(2) takes it: an absolute path, or NUL and a name
    port: int | None  # the number it wants
    description: str  # who it says it is, printable


def parse_request(data: bytes) -> Request | None:
    """The request that `data` begins with; None: there is more to come. PeerError: it is none.

    Of the description only what is there counts: nothing says how long it is.
    """
    if not _MAGIC.startswith(data[:4]):
        raise PeerError(f"it does not speak VDE's protocol: it begins with {data[:4].hex(' ')}")
    if len(data) < _START.sizeof():
        return None
    version = _START.parse(data).version
    layout = _VERSION_3 if version == 3 else _VERSION_1
    if layout is _VERSION_1 and version not in (_PORT, _PORT_0):  # version 1 has the type there
        raise PeerError(f"it speaks version {version} of VDE's protocol; there are 1 and 3")
    if len(data) < layout.sizeof():
        return None
    found = layout.parse(data)
    kind, wanted = found.type & 0xFF, found.type >> 8
    if kind not in (_PORT, _PORT_0):
        raise PeerError(f"it asks for something of type {kind}; there are 0, a port, and 1, port 0")
    port = 0 if kind == _PORT_0 else wanted or None
    place = _place(found.address.family, found.address.path)
    return Request(place, port, _printable(data[layout.sizeof() :]))


def answer(path: bytes) -> bytes:
    """What a client is told: the path of the switch's datagram socket, shorter than `PATH_BYTES`."""
    told: bytes = _ADDRESS.build({"family": _UNIX, "path": path.ljust(PATH_BYTES, b"\0")})
    return told


def _place(family: int, path: bytes) -> bytes:
    if family != _UNIX:
        raise PeerError(f"its data socket is of address family {family}; it has to be a Unix socket, {_UNIX}")
    if not path.strip(b"\0"):
        raise PeerError("its data socket has no name; it has to bind it first")
    if path.startswith(b"\0"):
        return path
    name, end, _ = path.partition(b"\0")
    if not end:
        raise PeerError("the path of its data socket has no end; at most 107 bytes and a NUL are possible")
    if not name.startswith(b"/"):
        raise PeerError(f"its data socket is at {_printable(name)!r}; only absolute paths can be found here")
    return name


def _printable(text: bytes) -> str:
    """Up to the first NUL, without what would upset a terminal or a log."""
    shown = text.partition(b"\0")[0][:MOST_DESCRIPTION].decode("ascii", "replace")
    return "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in shown)
