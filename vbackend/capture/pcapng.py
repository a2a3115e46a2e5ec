"""pcapng around the engine's packet blocks: section, interfaces, statistics (draft-ietf-opsawg-pcapng-04). Pure.

The packet blocks themselves are the engine's (native/proto/src/capture/block.rs). Everything is little-endian,
times are nanoseconds since the epoch.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal

from vbackend.errors import PeerError

__all__ = [
    "DEFAULT_SNAPLEN",
    "Blocks",
    "Interface",
    "LinkType",
    "Statistics",
    "Tally",
    "UnitLink",
    "description",
    "head",
    "section",
    "statistics",
]

DEFAULT_SNAPLEN: Final = 262_144  # tcpdump's; it reads only files whose interfaces agree on it

_SECTION: Final = 0x0A0D0D0A
_INTERFACE: Final = 1
_STATISTICS: Final = 5
_PACKET: Final = 6
_BYTE_ORDER_MAGIC: Final = 0x1A2B3C4D
_SECTION_LENGTH_UNKNOWN: Final = 0xFFFF_FFFF_FFFF_FFFF
_NANOSECONDS: Final = 9  # if_tsresol: a power of ten
_MAX_BLOCK: Final = 1 << 20  # bytes; the engine's are shorter than a frame and some options


UnitLink = Literal["null", "loop", "raw"]  # how a capture shows packets of a tun unit


class LinkType(IntEnum):
    """How a packet begins: LINKTYPE_ values (https://www.tcpdump.org/linktypes.html)."""

    NULL = 0
    ETHERNET = 1
    RAW = 101
    LOOP = 108


@dataclass(frozen=True, slots=True)
class Interface:
    """What packets are recorded under: a port, or one direction of a link."""

    name: str
    description: str
    link_type: LinkType = LinkType.ETHERNET


@dataclass(frozen=True, slots=True)
class Statistics:
    """What became of one interface's packets: they passed the port, were recorded, passed the filter and were lost."""

    seen: int
    captured: int
    lost: int


def section(application: str) -> bytes:
    """The section header, what a file begins with (section 4.1)."""
    fixed = struct.pack("<IHHQ", _BYTE_ORDER_MAGIC, 1, 0, _SECTION_LENGTH_UNKNOWN)
    return _block(_SECTION, fixed + _options([(4, application.encode())]))  # shb_userappl


def description(interface: Interface, snaplen: int, expression: str | None) -> bytes:
    """An interface's description, anywhere in front of its first packet (section 4.2)."""
    options = [(2, _text(interface.name)), (3, _text(interface.description)), (9, bytes([_NANOSECONDS]))]
    if expression:
        options.append((11, b"\0" + expression.encode()))  # if_filter, as libpcap's text
    fixed = struct.pack("<HHI", interface.link_type, 0, snaplen)
    return _block(_INTERFACE, fixed + _options(options))


def head(application: str, interfaces: Sequence[Interface], snaplen: int, expression: str | None) -> bytes:
    """A file whose interfaces are all known at its beginning, up to their first packet."""
    return section(application) + b"".join(description(one, snaplen, expression) for one in interfaces)


def statistics(interfaces: Sequence[Statistics], *, started_ns: int, ended_ns: int, filtered: bool) -> bytes:
    """Interface statistics, what a capture ends with (section 4.6)."""
    blocks = []
    for number, one in enumerate(interfaces):
        options = [(2, _time(started_ns)), (3, _time(ended_ns)), (4, _count(one.seen)), (5, _count(one.lost))]
        if filtered:
            options.append((6, _count(one.captured + one.lost)))  # isb_filteraccept
        options.append((8, _count(one.captured)))  # isb_usrdeliv
        blocks.append(_block(_STATISTICS, struct.pack("<I", number) + _time(ended_ns) + _options(options)))
    return b"".join(blocks)


class Blocks:
    """Cuts a byte stream into whole blocks, so that a file never ends inside of one."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> bytes:
        """All blocks that are whole now. PeerError: this is no pcapng stream of vbackend's."""
        self._pending += data
        end = 0
        while len(self._pending) - end >= 12:
            _, length = struct.unpack_from("<II", self._pending, end)
            if length < 12 or length % 4 or length > _MAX_BLOCK:
                raise PeerError(f"capture: a block of {length} bytes; is it another version of vbackend?")
            if len(self._pending) - end < length:
                break
            end += length
        whole = bytes(self._pending[:end])
        del self._pending[:end]
        return whole


@dataclass
class Tally:
    """Counts the packets of whole blocks, and what their statistics say was lost."""

    packets: int = 0
    lost: int = 0

    def feed(self, blocks: bytes) -> None:
        """Count more blocks."""
        for kind, body in _walk(blocks):
            if kind == _PACKET:
                self.packets += 1
            elif kind == _STATISTICS:
                self.lost += _option_values(body[12:]).get(5, 0)


def _walk(blocks: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(blocks):
        kind, length = struct.unpack_from("<II", blocks, at)
        yield kind, blocks[at + 8 : at + length - 4]
        at += length


def _option_values(options: bytes) -> dict[int, int]:
    """Options whose value is a 64-bit count."""
    found, at = {}, 0
    while at + 4 <= len(options):
        code, length = struct.unpack_from("<HH", options, at)
        found[code] = int.from_bytes(options[at + 4 : at + 4 + length], "little")
        at += 4 + length + -length % 4
    return found


def _block(kind: int, body: bytes) -> bytes:
    length = len(body) + 12
    return struct.pack("<II", kind, length) + body + struct.pack("<I", length)


def _options(options: Sequence[tuple[int, bytes]]) -> bytes:
    packed = [struct.pack("<HH", code, len(value)) + _padded(value) for code, value in options]
    return b"".join(packed) + bytes(4)  # opt_endofopt


def _text(text: str) -> bytes:
    """As UTF-8, which names of files need not be."""
    return text.encode(errors="backslashreplace")


def _padded(value: bytes) -> bytes:
    return value + bytes(-len(value) % 4)


def _time(nanoseconds: int) -> bytes:
    """Two 32-bit words, the high one first."""
    return struct.pack("<II", nanoseconds >> 32, nanoseconds & 0xFFFF_FFFF)


def _count(value: int) -> bytes:
    return struct.pack("<Q", value)
