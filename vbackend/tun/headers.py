"""Link headers of a tun unit's device face: what stands before a packet that is read or written. Pure.

    none      -                                                                    bare IP: the version nibble says it
    null      family u32, host order                                               DLT_NULL
    loop      family u32, network order                                            DLT_LOOP
    sockaddr  len u8 = 16, family u8, port u16 = 0, address 4, zero 8              sockaddr_in, IPv4
              len u8 = 28, family u8, port u16 = 0, flowinfo u32 = 0, address 16,  sockaddr_in6, IPv6
              scope_id u32 = 0
              linux: family u16, host order, in place of len and family
    pi        flags u16, host order; EtherType u16, network order                  linux/if_tun.h, struct tun_pi
    ether     destination 6, source 6, EtherType u16, network order                the tap sibling of the unit

Family numbers: IPv4 is 2 everywhere, IPv6 24 on NetBSD and OpenBSD, 28 on FreeBSD, 30 on Darwin, 10 on Linux. All
four are read in every header of every system. In null and loop 24 is written for Linux: no decoder of
DLT_NULL knows 10. EtherTypes: 0x0800 and 0x86dd. null is read in both orders, as captures are.

`decode` takes any bytes: the only error is `HeaderError`. Whether a packet may be empty is not decided here, except by
`none`, which has nothing else to look at.
"""

import errno
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal, assert_never

# declares the layouts that would be offsets and struct formats
from construct import Bytes, Default, Int8ub, Int16ub, Int16ul, Int32ub, Int32ul, Struct

from vbackend.errors import VbackendError
from vbackend.tun.vocabulary import HEADERS, SYSTEMS, Address, Header, System

__all__ = ["LINKTYPES", "ByteOrder", "Decoded", "Family", "HeaderError", "decode", "encode", "family_number"]

ByteOrder = Literal["little", "big"]

# What a capture of a unit calls its packets (tcpdump.org, LINKTYPE_): headers libpcap has no name for become null's
LINKTYPES: Final[dict[Header, int]] = {
    "none": 101,
    "null": 0,
    "loop": 108,
    "sockaddr": 0,
    "pi": 0,
    "ether": 1,
}


class Family(IntEnum):
    """An IP version, whatever number an operating system gives it."""

    INET = 4
    INET6 = 6


class HeaderError(VbackendError, ValueError):
    """The header cannot be read or written; `errno` is what the driver returns for it.

    EIO: too short; EAFNOSUPPORT: a family that is not IPv4 or IPv6; EINVAL: no such header, system or value.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.errno = code


@dataclass(frozen=True, slots=True)
class Decoded:
    family: Family
    payload: bytes
    destination: Address | None = None  # of sockaddr, when its bytes are all there
    flags: int = 0  # of pi


# --- layouts ---

_U16: Final = {"little": Int16ul, "big": Int16ub}
_U32: Final = {"little": Int32ul, "big": Int32ub}
_BSD_HEAD: Final = ("len" / Int8ub, "family" / Int8ub)
_IN: Final = ("port" / Default(Int16ub, 0), "address" / Bytes(4), "zero" / Default(Bytes(8), bytes(8)))
_IN6: Final = (
    "port" / Default(Int16ub, 0),
    "flowinfo" / Default(Int32ub, 0),
    "address" / Bytes(16),
    "scope_id" / Default(Int32ub, 0),
)
_BODY: Final = {Family.INET: _IN, Family.INET6: _IN6}
_SOCKADDR_BSD: Final = {family: Struct(*_BSD_HEAD, *body) for family, body in _BODY.items()}
_SOCKADDR_LINUX: Final = {
    (family, order): Struct("family" / u16, *body)
    for family, body in _BODY.items()
    for order, u16 in _U16.items()
}
_SOCKADDR_MIN: Final = 16  # sizeof(struct sockaddr): the least that is read, and all that the driver looks at
_PI: Final = {order: Struct("flags" / u16, "type" / Int16ub) for order, u16 in _U16.items()}
_ETHER: Final = Struct("destination" / Bytes(6), "source" / Bytes(6), "type" / Int16ub)

_AF_INET: Final = 2
_AF_INET6: Final[dict[System, int]] = {"netbsd": 24, "freebsd": 28, "darwin": 30, "linux": 10}
_FAMILIES: Final = {_AF_INET: Family.INET} | dict.fromkeys(_AF_INET6.values(), Family.INET6)
_ETHERTYPES: Final = {Family.INET: 0x0800, Family.INET6: 0x86DD}
_BY_ETHERTYPE: Final = {number: family for family, number in _ETHERTYPES.items()}
_VERSIONS: Final = {family.value: family for family in Family}
_SHORTEST: Final[dict[Header, int]] = {
    "none": 1,
    "null": Int32ub.sizeof(),
    "loop": Int32ub.sizeof(),
    "sockaddr": _SOCKADDR_MIN,
    "pi": _PI["big"].sizeof(),
    "ether": _ETHER.sizeof(),
}
_ADDRESS: Final[dict[Family, type[Address]]] = {Family.INET: IPv4Address, Family.INET6: IPv6Address}
_DESTINATION: Final = {Family.INET: slice(16, 20), Family.INET6: slice(24, 40)}  # RFC 791 3.1, RFC 8200 3


# --- writing ---


def encode(
    header: Header,
    packet: bytes,
    *,
    family: Family | int,
    system: System = "netbsd",
    destination: Address | None = None,
    flags: int = 0,
    order: ByteOrder = sys.byteorder,
    ether: tuple[bytes, bytes] = (bytes(6), bytes(6)),
) -> bytes:
    """The packet with its header in front.

    `family`: a `Family`, or 4 or 6. `destination`: for sockaddr; None takes the packet's own. `flags`: for pi, u16.
    `order`: the host's byte order. `ether`: destination and source address. HeaderError: EAFNOSUPPORT for another
    family, also of `destination`; EIO for a packet without the destination that is asked for; EINVAL for the rest.
    """
    _check(header, system)
    if family not in _ETHERTYPES:
        raise HeaderError(errno.EAFNOSUPPORT, f"write {header}: family {family!r}; give 4 or 6")
    family = Family(family)
    match header:
        case "none":
            head = b""
        case "null":
            head = _U32[order].build(_captured_number(family, system))
        case "loop":
            head = Int32ub.build(_captured_number(family, system))
        case "sockaddr":
            head = _sockaddr(family, system, order, destination or _destination_of(packet, family))
        case "pi":
            if not 0 <= flags <= 0xFFFF:
                raise HeaderError(errno.EINVAL, f"write pi: flags {flags}; give 0 to 65535")
            head = _PI[order].build({"flags": flags, "type": _ETHERTYPES[family]})
        case "ether":
            if [len(address) for address in ether] != [6, 6]:
                raise HeaderError(errno.EINVAL, f"write ether: addresses {ether}; give two of 6 bytes")
            head = _ETHER.build({"destination": ether[0], "source": ether[1], "type": _ETHERTYPES[family]})
        case _:
            assert_never(header)
    return bytes(head) + packet


def family_number(family: Family, system: System) -> int:
    """AF_INET or AF_INET6 as `system` has it."""
    return _AF_INET if family is Family.INET else _AF_INET6[system]


def _captured_number(family: Family, system: System) -> int:
    return family_number(family, "netbsd" if system == "linux" else system)


def _sockaddr(family: Family, system: System, order: ByteOrder, destination: Address) -> bytes:
    if destination.version != family:
        raise HeaderError(
            errno.EAFNOSUPPORT, f"write sockaddr: destination {destination} of an IPv{family.value} packet"
        )
    fields = {"family": family_number(family, system), "address": destination.packed}
    if system == "linux":
        return bytes(_SOCKADDR_LINUX[family, order].build(fields))
    layout = _SOCKADDR_BSD[family]
    return bytes(layout.build(fields | {"len": layout.sizeof()}))


def _destination_of(packet: bytes, family: Family) -> Address:
    where = _DESTINATION[family]
    if len(packet) < where.stop:
        raise HeaderError(
            errno.EIO,
            f"write sockaddr: {len(packet)} bytes hold no IPv{family.value} destination; give destination",
        )
    return _ADDRESS[family](packet[where])


# --- reading ---


def decode(
    header: Header, data: bytes, *, system: System = "netbsd", order: ByteOrder = sys.byteorder
) -> Decoded:
    """The header's family and the packet behind it.

    `order`: the host's byte order. HeaderError: EIO for fewer bytes than the header has, EAFNOSUPPORT for a family
    that is not IP, EINVAL for a header or system that is none.
    """
    _check(header, system)
    if len(data) < _SHORTEST[header]:
        raise HeaderError(
            errno.EIO, f"read {header}: {len(data)} bytes, shorter than the {_SHORTEST[header]} of its header"
        )
    match header:
        case "none":
            return Decoded(_family(header, data[0] >> 4, _VERSIONS), data)
        case "null":
            number = int(_U32[order].parse(data))
            swapped = int.from_bytes(number.to_bytes(4, "little"), "big")
            family = _family(header, number if number in _FAMILIES else swapped, _FAMILIES)
            return Decoded(family, data[4:])
        case "loop":
            return Decoded(_family(header, Int32ub.parse(data), _FAMILIES), data[4:])
        case "sockaddr":
            return _read_sockaddr(data, system, order)
        case "pi":
            fields = _PI[order].parse(data)
            return Decoded(_family(header, fields.type, _BY_ETHERTYPE), data[4:], flags=fields.flags)
        case "ether":
            return Decoded(_family(header, _ETHER.parse(data).type, _BY_ETHERTYPE), data[14:])
        case _:
            assert_never(header)


def _read_sockaddr(data: bytes, system: System, order: ByteOrder) -> Decoded:
    """16 bytes, and the surplus of a longer one as far as there is any (rule W2: if_tun.c tunwrite())."""
    if system == "linux":
        family = _family("sockaddr", _U16[order].parse(data), _FAMILIES)
        layout = _SOCKADDR_LINUX[family, order]
        length = layout.sizeof()
    else:
        family = _family("sockaddr", data[1], _FAMILIES)
        layout = _SOCKADDR_BSD[family]
        length = max(data[0], _SOCKADDR_MIN)
    destination = None
    if layout.sizeof() <= min(length, len(data)):
        destination = _ADDRESS[family](layout.parse(data).address)
    return Decoded(family, data[length:], destination)


def _family(header: Header, number: int, families: Mapping[int, Family]) -> Family:
    family = families.get(number)
    if family is None:
        raise HeaderError(
            errno.EAFNOSUPPORT, f"read {header}: family {number:#x} is neither IPv4 nor IPv6 in it"
        )
    return family


def _check(header: str, system: str) -> None:
    if header not in HEADERS or system not in SYSTEMS:
        raise HeaderError(
            errno.EINVAL,
            f"header {header!r} of {system!r}: give one of {', '.join(HEADERS)} and of {', '.join(SYSTEMS)}",
        )
