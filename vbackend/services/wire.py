"""Ethernet, ARP, IPv4, IPv6, UDP, ICMP and neighbour discovery, as far as a station needs them. Pure.

`parse_*` take the bytes behind the header before and raise `WireError`, nothing else; lengths and checksums are
verified. `build_*` write what is right on the wire. Extension headers of IPv6 and fragments are not read: nothing
that a station answers comes with them.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from construct import Bytes, Construct, Int8ub, Int16ub, Int32ub, StreamError, Struct

from vbackend.services.reasons import Drop, WireError

__all__ = [
    "ALL_NODES",
    "ARP",
    "BROADCAST",
    "ICMP4",
    "ICMP6",
    "IPV4",
    "IPV6",
    "UDP",
    "Address",
    "Arp",
    "Ethernet",
    "Icmp",
    "Packet",
    "Udp",
    "build_arp",
    "build_ethernet",
    "build_icmp",
    "build_ip",
    "build_ndp_option",
    "build_udp",
    "checksum",
    "multicast_mac",
    "parse_arp",
    "parse_ethernet",
    "parse_icmp",
    "parse_ip",
    "parse_ndp_options",
    "parse_udp",
    "solicited_node",
]

Address = IPv4Address | IPv6Address

IPV4: Final = 0x0800
ARP: Final = 0x0806
IPV6: Final = 0x86DD
ICMP4: Final = 1
UDP: Final = 17
ICMP6: Final = 58
BROADCAST: Final = b"\xff" * 6
ALL_NODES: Final = IPv6Address("ff02::1")

_SHORTEST_FRAME: Final = 60  # IEEE 802.3, without the check sequence
_FRAGMENT6: Final = 44
_SOLICITED_NODE: Final = int(IPv6Address("ff02::1:ff00:0"))  # RFC 4291 2.7.1

_ETHER_HEAD: Final = Struct("destination" / Bytes(6), "source" / Bytes(6), "type" / Int16ub)
_ARP: Final = Struct(
    "hardware" / Int16ub,
    "protocol" / Int16ub,
    "hardware_len" / Int8ub,
    "protocol_len" / Int8ub,
    "operation" / Int16ub,
    "sender_mac" / Bytes(6),
    "sender" / Bytes(4),
    "target_mac" / Bytes(6),
    "target" / Bytes(4),
)
_IPV4: Final = Struct(
    "version_ihl" / Int8ub,
    "tos" / Int8ub,
    "length" / Int16ub,
    "id" / Int16ub,
    "fragment" / Int16ub,
    "ttl" / Int8ub,
    "protocol" / Int8ub,
    "checksum" / Int16ub,
    "source" / Bytes(4),
    "destination" / Bytes(4),
)
_IPV6: Final = Struct(
    "version_class_flow" / Int32ub,
    "length" / Int16ub,
    "next" / Int8ub,
    "hops" / Int8ub,
    "source" / Bytes(16),
    "destination" / Bytes(16),
)
_UDP: Final = Struct("source" / Int16ub, "destination" / Int16ub, "length" / Int16ub, "checksum" / Int16ub)
_ICMP: Final = Struct("type" / Int8ub, "code" / Int8ub, "checksum" / Int16ub)
_PSEUDO4: Final = Struct(
    "source" / Bytes(4), "destination" / Bytes(4), "protocol" / Int16ub, "length" / Int16ub
)
_PSEUDO6: Final = Struct(
    "source" / Bytes(16), "destination" / Bytes(16), "length" / Int32ub, "next" / Int32ub
)


@dataclass(frozen=True, slots=True)
class Ethernet:
    destination: bytes
    source: bytes
    ethertype: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Arp:
    operation: int  # 1 request, 2 reply
    sender_mac: bytes
    sender: IPv4Address
    target_mac: bytes
    target: IPv4Address


@dataclass(frozen=True, slots=True)
class Packet:
    """An IP packet of either version. `data`: the whole of it, without what Ethernet padded."""

    source: Address
    destination: Address
    protocol: int
    hops: int
    payload: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Udp:
    source: int
    destination: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Icmp:
    """`body`: what follows the checksum."""

    type: int
    code: int
    body: bytes


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of the bytes; 0 when they hold their own, right checksum."""
    if len(data) % 2:
        data += b"\0"
    number = int.from_bytes(data)
    total = number % 0xFFFF or (0xFFFF if number else 0)
    return 0xFFFF - total


def solicited_node(address: IPv6Address) -> IPv6Address:
    return IPv6Address(_SOLICITED_NODE | int(address) & 0xFFFFFF)


def multicast_mac(address: IPv6Address) -> bytes:
    """RFC 2464 7."""
    return b"\x33\x33" + address.packed[-4:]


def parse_ethernet(frame: bytes) -> Ethernet:
    head = _parse(_ETHER_HEAD, frame)
    return Ethernet(head.destination, head.source, head.type, frame[14:])


def build_ethernet(destination: bytes, source: bytes, ethertype: int, payload: bytes) -> bytes:
    head = _ETHER_HEAD.build({"destination": destination, "source": source, "type": ethertype})
    return (bytes(head) + payload).ljust(_SHORTEST_FRAME, b"\0")


def parse_arp(data: bytes) -> Arp:
    fields = _parse(_ARP, data)
    kind = (fields.hardware, fields.protocol, fields.hardware_len, fields.protocol_len)
    if kind != (1, IPV4, 6, 4) or fields.sender_mac[0] & 1:
        raise WireError(Drop.ARP)
    sender, target = IPv4Address(fields.sender), IPv4Address(fields.target)
    return Arp(fields.operation, fields.sender_mac, sender, fields.target_mac, target)


def build_arp(arp: Arp) -> bytes:
    fields = {
        "hardware": 1,
        "protocol": IPV4,
        "hardware_len": 6,
        "protocol_len": 4,
        "operation": arp.operation,
        "sender_mac": arp.sender_mac,
        "sender": arp.sender.packed,
        "target_mac": arp.target_mac,
        "target": arp.target.packed,
    }
    return bytes(_ARP.build(fields))


def parse_ip(ethertype: int, data: bytes) -> Packet:
    """`ethertype`: IPV4 or IPV6."""
    packet = _parse_ipv4(data) if ethertype == IPV4 else _parse_ipv6(data)
    if packet.source.is_multicast or packet.source.is_loopback or packet.source == _BROADCAST4:
        raise WireError(Drop.BAD_SOURCE)  # RFC 1122 3.2.1.3, RFC 4291 2.5.3 and 2.7
    return packet


_BROADCAST4: Final = IPv4Address("255.255.255.255")


def _parse_ipv4(data: bytes) -> Packet:
    head = _parse(_IPV4, data)
    head_len = (head.version_ihl & 0xF) * 4
    if head.version_ihl >> 4 != 4 or not 20 <= head_len <= head.length <= len(data):
        raise WireError(Drop.IP_HEADER)
    if checksum(data[:head_len]) != 0:
        raise WireError(Drop.IP_HEADER, "checksum")
    if head.fragment & 0x3FFF:  # more to come, or not the first
        raise WireError(Drop.FRAGMENT)
    data = data[: head.length]
    source, destination = IPv4Address(head.source), IPv4Address(head.destination)
    return Packet(source, destination, head.protocol, head.ttl, data[head_len:], data)


def _parse_ipv6(data: bytes) -> Packet:
    head = _parse(_IPV6, data)
    end = 40 + head.length
    if head.version_class_flow >> 28 != 6 or end > len(data):
        raise WireError(Drop.IP_HEADER)
    if head.next == _FRAGMENT6:
        raise WireError(Drop.FRAGMENT)
    source, destination = IPv6Address(head.source), IPv6Address(head.destination)
    return Packet(source, destination, head.next, head.hops, data[40:end], data[:end])


def build_ip(
    source: Address, destination: Address, protocol: int, payload: bytes, *, hops: int = 64
) -> bytes:
    """One packet; of IPv4 one that may not be fragmented."""
    if isinstance(source, IPv6Address):
        fields: dict[str, Any] = {"version_class_flow": 6 << 28, "length": len(payload), "next": protocol}
        ends = {"hops": hops, "source": source.packed, "destination": destination.packed}
        return bytes(_IPV6.build(fields | ends)) + payload
    fields = {
        "version_ihl": 0x45,
        "tos": 0,
        "length": 20 + len(payload),
        "id": 0,  # RFC 6864 4.1: meaningless without fragments
        "fragment": 0x4000,
        "ttl": hops,
        "protocol": protocol,
        "checksum": 0,
        "source": source.packed,
        "destination": destination.packed,
    }
    fields["checksum"] = checksum(_IPV4.build(fields))
    return bytes(_IPV4.build(fields)) + payload


def parse_udp(packet: Packet) -> Udp:
    head = _parse(_UDP, packet.payload)
    if not 8 <= head.length <= len(packet.payload):
        raise WireError(Drop.UDP_LENGTH)
    data = packet.payload[: head.length]
    if head.checksum == 0:
        if isinstance(packet.source, IPv6Address):
            raise WireError(Drop.CHECKSUM, "none, which IPv6 does not allow")  # RFC 8200 8.1
    elif _transport_checksum(packet.source, packet.destination, UDP, data) != 0:
        raise WireError(Drop.CHECKSUM)
    return Udp(head.source, head.destination, data[8:])


def build_udp(source: Address, destination: Address, udp: Udp) -> bytes:
    length = 8 + len(udp.payload)
    fields = {"source": udp.source, "destination": udp.destination, "length": length, "checksum": 0}
    data = bytes(_UDP.build(fields)) + udp.payload
    fields["checksum"] = _transport_checksum(source, destination, UDP, data) or 0xFFFF  # RFC 768
    return bytes(_UDP.build(fields)) + udp.payload


def parse_icmp(packet: Packet) -> Icmp:
    """ICMP or ICMPv6, by the packet's version."""
    head = _parse(_ICMP, packet.payload)
    if _icmp_checksum(packet.source, packet.destination, packet.payload) != 0:
        raise WireError(Drop.CHECKSUM)
    return Icmp(head.type, head.code, packet.payload[4:])


def build_icmp(source: Address, destination: Address, icmp: Icmp) -> bytes:
    fields = {"type": icmp.type, "code": icmp.code, "checksum": 0}
    fields["checksum"] = _icmp_checksum(source, destination, bytes(_ICMP.build(fields)) + icmp.body)
    return bytes(_ICMP.build(fields)) + icmp.body


def parse_ndp_options(data: bytes) -> list[tuple[int, bytes]]:
    """Options of a neighbour discovery message (RFC 4861 4.6): type and what follows the length."""
    found = []
    while data:
        length = data[1] * 8 if len(data) > 1 else 0
        if not 0 < length <= len(data):
            raise WireError(Drop.NDP, "length of an option")
        found.append((data[0], data[2:length]))
        data = data[length:]
    return found


def build_ndp_option(kind: int, body: bytes) -> bytes:
    """Padded to eight bytes."""
    units = (len(body) + 2 + 7) // 8
    return bytes([kind, units]) + body.ljust(units * 8 - 2, b"\0")


def _icmp_checksum(source: Address, destination: Address, data: bytes) -> int:
    if isinstance(source, IPv4Address):
        return checksum(data)
    return _transport_checksum(source, destination, ICMP6, data)


def _transport_checksum(source: Address, destination: Address, protocol: int, data: bytes) -> int:
    ends = {"source": source.packed, "destination": destination.packed, "length": len(data)}
    if isinstance(source, IPv4Address):
        pseudo = _PSEUDO4.build(ends | {"protocol": protocol})
    else:
        pseudo = _PSEUDO6.build(ends | {"next": protocol})
    return checksum(bytes(pseudo) + data)


def _parse(layout: Construct, data: bytes) -> Any:
    try:
        return layout.parse(data)
    except StreamError:
        raise WireError(Drop.SHORT) from None
