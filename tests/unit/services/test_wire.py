"""What is built, as scapy reads it; what scapy builds, as it is read here; and what is refused."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet as ScapyPacket
from scapy.packet import Raw

from vbackend.services import wire
from vbackend.services.reasons import Drop, WireError
from vbackend.services.wire import Arp, Icmp, Udp

A, B = bytes.fromhex("525400000001"), bytes.fromhex("525400000002")
A4, B4 = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
A6, B6 = IPv6Address("fd00::1"), IPv6Address("fd00::2")
BOTH = [(A4, B4), (A6, B6)]


def checked(packet: ScapyPacket) -> bytes:
    """The packet's bytes, after scapy has found its checksums right: rebuilt without them it is the same."""
    fresh = packet.copy()
    for layer in (IP, UDP, ICMP):
        if layer in fresh:
            del fresh[layer].chksum
    for each in fresh.layers():
        if each.__name__.startswith("ICMPv6") and "cksum" in fresh[each].fields:
            del fresh[each].cksum
    assert bytes(fresh) == bytes(packet)
    return bytes(packet)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("", 0xFFFF),
        ("0000", 0xFFFF),
        ("ffff", 0),
        ("0001f203f4f5f6f7", 0x220D),  # RFC 1071 3's example, complemented
        ("ff", 0x00FF),
        ("ffffffff", 0),
    ],
)
def test_checksum(data: str, expected: int) -> None:
    assert wire.checksum(bytes.fromhex(data)) == expected


def test_ethernet_is_padded_and_read() -> None:
    frame = wire.build_ethernet(B, A, 0x88B5, b"x")
    assert (len(frame), Ether(frame).dst, Ether(frame).src) == (60, B.hex(":"), A.hex(":"))
    read = wire.parse_ethernet(frame)
    assert (read.destination, read.source, read.ethertype, read.payload[:2]) == (B, A, 0x88B5, b"x\0")


def test_arp() -> None:
    built = wire.build_arp(Arp(2, A, A4, B, B4))
    read = ARP(built)
    assert (read.op, read.hwsrc, read.psrc, read.hwdst, read.pdst) == (
        2,
        A.hex(":"),
        "10.0.0.1",
        B.hex(":"),
        "10.0.0.2",
    )
    assert wire.parse_arp(
        bytes(ARP(op=1, hwsrc=A.hex(":"), psrc="10.0.0.1", pdst="10.0.0.2")) + b"pad"
    ) == Arp(1, A, A4, bytes(6), B4)


@pytest.mark.parametrize(
    "options", [{"hwlen": 8}, {"hwtype": 6}, {"ptype": 0x86DD}, {"hwsrc": "ff:ff:ff:ff:ff:ff"}]
)
def test_other_arp_is_refused(options: dict[str, object]) -> None:
    data = bytearray(bytes(ARP(hwsrc=A.hex(":"), psrc="10.0.0.1", pdst="10.0.0.2")))
    position = {"hwlen": 4, "hwtype": 1, "ptype": 3, "hwsrc": 8}[next(iter(options))]
    data[position] = 0xFF
    with pytest.raises(WireError) as error:
        wire.parse_arp(bytes(data))
    assert error.value.reason is Drop.ARP


@pytest.mark.parametrize(("source", "destination"), BOTH)
@pytest.mark.parametrize("payload", [b"", b"x", b"even", bytes(1400)])
def test_udp(source: wire.Address, destination: wire.Address, payload: bytes) -> None:
    datagram = wire.build_udp(source, destination, Udp(67, 68, payload))
    packet = wire.build_ip(source, destination, wire.UDP, datagram)
    read = IP(packet) if source.version == 4 else IPv6(packet)
    assert checked(read) == packet
    assert (read.src, read.dst, read[UDP].sport, read[UDP].dport) == (str(source), str(destination), 67, 68)
    ours = wire.parse_ip(wire.IPV4 if source.version == 4 else wire.IPV6, packet + b"padding")
    assert (ours.source, ours.destination, ours.protocol, ours.data) == (
        source,
        destination,
        wire.UDP,
        packet,
    )
    assert wire.parse_udp(ours) == Udp(67, 68, payload)


def test_udp_checksum_that_comes_out_as_zero_is_sent_as_ones() -> None:
    """RFC 768: zero would mean that there is none."""
    plain = wire.build_udp(A6, B6, Udp(1, 2, b"\0\0"))
    payload = plain[6:8]  # its complement of the rest makes the sum all ones
    built = wire.build_udp(A6, B6, Udp(1, 2, payload))
    assert built[6:8] == b"\xff\xff"
    assert wire.parse_udp(wire.parse_ip(wire.IPV6, wire.build_ip(A6, B6, wire.UDP, built))).payload == payload


@pytest.mark.parametrize(("source", "destination"), BOTH)
def test_icmp(source: wire.Address, destination: wire.Address) -> None:
    message = wire.build_icmp(
        source, destination, Icmp(0 if source.version == 4 else 129, 0, b"\0\1\0\2data")
    )
    protocol = wire.ICMP4 if source.version == 4 else wire.ICMP6
    packet = wire.build_ip(source, destination, protocol, message, hops=255)
    read = IP(packet) if source.version == 4 else IPv6(packet)
    assert checked(read) == packet
    ours = wire.parse_ip(wire.IPV4 if source.version == 4 else wire.IPV6, packet)
    assert ours.hops == 255
    assert wire.parse_icmp(ours).body == b"\0\1\0\2data"


def test_neighbour_advertisement_as_scapy_reads_it() -> None:
    body = (0x60000000).to_bytes(4) + A6.packed + wire.build_ndp_option(2, A)
    packet = wire.build_ip(A6, B6, wire.ICMP6, wire.build_icmp(A6, B6, Icmp(136, 0, body)), hops=255)
    read = IPv6(packet)
    assert checked(read) == packet
    assert (read[ICMPv6ND_NA].tgt, read[ICMPv6ND_NA].S, read[ICMPv6ND_NA].O) == ("fd00::1", 1, 1)
    assert read[ICMPv6NDOptDstLLAddr].lladdr == A.hex(":")


def test_ndp_options() -> None:
    data = wire.build_ndp_option(1, A) + wire.build_ndp_option(25, bytes(22))
    assert wire.parse_ndp_options(data) == [(1, A), (25, bytes(22))]
    assert wire.parse_ndp_options(b"") == []


@pytest.mark.parametrize("data", ["01", "0100", "0102" + "00" * 6, "0101" + "00" * 5])
def test_ndp_options_of_wrong_length(data: str) -> None:
    with pytest.raises(WireError) as error:
        wire.parse_ndp_options(bytes.fromhex(data))
    assert error.value.reason is Drop.NDP


def test_multicast_addresses() -> None:
    address = IPv6Address("fe80::5054:ff:fe12:3456")
    assert wire.solicited_node(address) == IPv6Address("ff02::1:ff12:3456")
    assert wire.multicast_mac(wire.solicited_node(address)) == bytes.fromhex("3333ff123456")


def changed(packet: ScapyPacket, at: int, value: int) -> bytes:
    data = bytearray(bytes(packet))
    data[at] = value
    return bytes(data)


UDP4 = IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2) / Raw(b"data")
UDP6 = IPv6(src="fd00::1", dst="fd00::2") / UDP(sport=1, dport=2) / Raw(b"data")
PING6 = IPv6(src="fd00::1", dst="fd00::2") / ICMPv6EchoRequest(data=b"data")


@pytest.mark.parametrize(
    ("ethertype", "data", "reason"),
    [
        (wire.IPV4, b"", Drop.SHORT),
        (wire.IPV4, bytes(UDP4)[:19], Drop.SHORT),
        (wire.IPV4, bytes(UDP4)[:-1], Drop.IP_HEADER),
        (wire.IPV4, bytes(UDP6), Drop.IP_HEADER),
        (wire.IPV4, changed(UDP4, 0, 0x44), Drop.IP_HEADER),
        (wire.IPV4, changed(UDP4, 0, 0x4F), Drop.IP_HEADER),
        (wire.IPV4, changed(UDP4, 3, 10), Drop.IP_HEADER),
        (wire.IPV4, changed(UDP4, 8, 1), Drop.IP_HEADER),  # a TTL that the checksum does not know
        (wire.IPV4, bytes(IP(src="10.0.0.1", dst="10.0.0.2", flags="MF") / UDP()), Drop.FRAGMENT),
        (wire.IPV4, bytes(IP(src="10.0.0.1", dst="10.0.0.2", frag=5) / Raw(b"x")), Drop.FRAGMENT),
        (wire.IPV4, bytes(IP(src="224.0.0.1", dst="10.0.0.2") / UDP()), Drop.BAD_SOURCE),
        (wire.IPV4, bytes(IP(src="255.255.255.255", dst="10.0.0.2") / UDP()), Drop.BAD_SOURCE),
        (wire.IPV4, bytes(IP(src="127.0.0.1", dst="10.0.0.2") / UDP()), Drop.BAD_SOURCE),
        (wire.IPV6, bytes(UDP6)[:39], Drop.SHORT),
        (wire.IPV6, bytes(UDP6)[:-1], Drop.IP_HEADER),
        (wire.IPV6, bytes(UDP4) + bytes(40), Drop.IP_HEADER),
        (wire.IPV6, changed(UDP6, 6, 44), Drop.FRAGMENT),
        (wire.IPV6, bytes(IPv6(src="ff02::1", dst="fd00::2") / UDP()), Drop.BAD_SOURCE),
        (wire.IPV6, bytes(IPv6(src="::1", dst="fd00::2") / UDP()), Drop.BAD_SOURCE),
    ],
)
def test_refused_packets(ethertype: int, data: bytes, reason: Drop) -> None:
    with pytest.raises(WireError) as error:
        wire.parse_ip(ethertype, data)
    assert error.value.reason is reason


@pytest.mark.parametrize(
    ("packet", "at", "value", "reason"),
    [
        (UDP4, 20 + 5, 7, Drop.UDP_LENGTH),
        (UDP4, 20 + 5, 200, Drop.UDP_LENGTH),
        (UDP4, 20 + 8, 0, Drop.CHECKSUM),
        (UDP6, 40 + 8, 0, Drop.CHECKSUM),
        (PING6, 40 + 9, 0xAA, Drop.CHECKSUM),
    ],
)
def test_refused_messages(packet: ScapyPacket, at: int, value: int, reason: Drop) -> None:
    ethertype = wire.IPV4 if IP in packet else wire.IPV6
    parse = wire.parse_udp if UDP in packet else wire.parse_icmp
    with pytest.raises(WireError) as error:
        parse(wire.parse_ip(ethertype, changed(packet, at, value)))
    assert error.value.reason is reason


def test_udp_without_checksum_is_for_ipv4_only() -> None:
    without4 = wire.parse_ip(wire.IPV4, bytes(IP(src="10.0.0.1", dst="10.0.0.2") / UDP(chksum=0) / Raw(b"x")))
    assert wire.parse_udp(without4).payload == b"x"
    data = bytearray(bytes(UDP6))
    data[46:48] = b"\0\0"
    with pytest.raises(WireError, match="none"):
        wire.parse_udp(wire.parse_ip(wire.IPV6, bytes(data)))


def test_options_of_ipv4_are_skipped() -> None:
    packet = bytes(
        IP(src="10.0.0.1", dst="10.0.0.2", options=b"\x01\x01\x01\x00") / UDP(sport=1, dport=2) / Raw(b"x")
    )
    assert wire.parse_udp(wire.parse_ip(wire.IPV4, packet)) == Udp(1, 2, b"x")
    assert ip_address("10.0.0.1") == wire.parse_ip(wire.IPV4, packet).source
