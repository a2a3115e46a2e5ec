"""Frames that scapy makes, and what the station makes of them, as scapy reads it."""

from ipaddress import IPv4Interface, IPv6Address, IPv6Interface

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from tests.unit.services.test_wire import checked
from vbackend.services.config import Interface
from vbackend.services.reasons import Drop, WireError
from vbackend.services.stack import Answer, Datagram, Solicitation, Stack
from vbackend.services.wire import Icmp, build_ethernet, build_icmp, build_ip

OURS, THEIRS = "02:00:00:00:00:01", "52:54:00:00:00:07"
LINK_LOCAL, SOLICITED = "fe80::ff:fe00:1", "ff02::1:ff00:1"
MAC = bytes.fromhex("020000000001")
ALL = "ff:ff:ff:ff:ff:ff"
TO_US = Ether(src=THEIRS, dst=OURS)
TO_ALL = Ether(src=THEIRS, dst=ALL)
TO_GROUP = Ether(src=THEIRS, dst="33:33:ff:00:00:01")
A4 = IP(src="10.0.0.7", dst="10.0.0.1")
A6 = IPv6(src="fd00::7", dst="fd00::1")
NS = ICMPv6ND_NS(tgt="fd00::1") / ICMPv6NDOptSrcLLAddr(lladdr=THEIRS)


def stack() -> Stack:
    addresses: list[Interface] = [IPv4Interface("10.0.0.1/24"), IPv6Interface("fd00::1/64")]
    return Stack(MAC, addresses, ports4=[53, 67], ports6=[53])


def answer(packet: Packet, what: str) -> Packet:
    """The answer; it goes to who asked, with right checksums."""
    found = stack().receive(bytes(packet), 0)
    assert isinstance(found, Answer)
    assert found.what == what
    read = Ether(found.frame)
    assert read.src == OURS
    assert len(found.frame) >= 60
    if IP in read or IPv6 in read:
        checked(read[IP] if IP in read else read[IPv6])
    return read


@pytest.mark.parametrize("ether", [TO_ALL, TO_US], ids=["to all", "to us"])
@pytest.mark.parametrize("sender", ["10.0.0.7", "0.0.0.0"])
def test_arp(ether: Ether, sender: str) -> None:
    read = answer(ether / ARP(op=1, hwsrc=THEIRS, psrc=sender, pdst="10.0.0.1"), "arp")
    assert (read.dst, read[ARP].op, read[ARP].psrc, read[ARP].pdst) == (THEIRS, 2, "10.0.0.1", sender)
    assert (read[ARP].hwsrc, read[ARP].hwdst) == (OURS, THEIRS)


@pytest.mark.parametrize("target", ["fd00::1", LINK_LOCAL])
def test_neighbour_solicitation(target: str) -> None:
    solicitation = ICMPv6ND_NS(tgt=target) / ICMPv6NDOptSrcLLAddr(lladdr=THEIRS)
    for ether, ip in (
        (TO_GROUP, IPv6(src="fe80::7", dst=SOLICITED)),
        (TO_US, IPv6(src="fe80::7", dst=target)),
    ):
        read = answer(ether / ip / solicitation, "neighbour")
        told = read[ICMPv6ND_NA]
        assert (read.dst, read[IPv6].src, read[IPv6].dst, read[IPv6].hlim) == (THEIRS, target, "fe80::7", 255)
        assert (told.tgt, told.S, told.O, told.R) == (target, 1, 1, 0)
        assert told.lladdr == OURS


def test_duplicate_address_detection_is_answered_to_all() -> None:
    read = answer(TO_GROUP / IPv6(src="::", dst=SOLICITED) / ICMPv6ND_NS(tgt="fd00::1"), "neighbour")
    assert (read.dst, read[IPv6].dst, read[ICMPv6ND_NA].S) == ("33:33:00:00:00:01", "ff02::1", 0)


def test_echo() -> None:
    read = answer(TO_US / A4 / ICMP(id=5, seq=6) / Raw(b"x" * 1000), "echo")
    assert (read[ICMP].type, read[ICMP].id, read[ICMP].seq, read[Raw].load) == (0, 5, 6, b"x" * 1000)
    assert (read.dst, read[IP].src, read[IP].dst) == (THEIRS, "10.0.0.1", "10.0.0.7")


@pytest.mark.parametrize(
    ("destination", "source"), [("fd00::1", "fd00::1"), (LINK_LOCAL, LINK_LOCAL), ("ff02::1", LINK_LOCAL)]
)
def test_echo6(destination: str, source: str) -> None:
    echo = ICMPv6EchoRequest(id=5, seq=6, data=b"data")
    ether = Ether(src=THEIRS, dst=OURS if source == destination else "33:33:00:00:00:01")
    read = answer(ether / IPv6(src="fd00::7", dst=destination) / echo, "echo")
    assert (read[ICMPv6EchoReply].id, read[ICMPv6EchoReply].seq, read[ICMPv6EchoReply].data) == (
        5,
        6,
        b"data",
    )
    assert (read[IPv6].src, read[IPv6].dst) == (source, "fd00::7")


@pytest.mark.parametrize(("ip", "longest"), [(A4, 576), (A6, 1280)])
def test_port_that_nobody_serves(ip: Packet, longest: int) -> None:
    for size in (4, 1400):
        packet = TO_US / ip / UDP(sport=1000, dport=7) / Raw(b"x" * size)
        read = answer(packet, "unreachable")
        inner = bytes(packet[IP] if IP in packet else packet[IPv6])
        if IP in packet:
            assert (read[ICMP].type, read[ICMP].code, read[IP].len) == (3, 3, min(longest, len(inner) + 28))
        else:
            assert (read[ICMPv6DestUnreach].code, read[IPv6].plen + 40) == (4, min(longest, len(inner) + 48))
        assert inner[:60] in bytes(read)


def test_icmp_errors_are_limited() -> None:
    ours = stack()
    packet = bytes(TO_US / A4 / UDP(sport=1, dport=7))
    for _ in range(50):
        assert isinstance(ours.receive(packet, 10.0), Answer)
    with pytest.raises(WireError) as error:
        ours.receive(packet, 10.0)
    assert error.value.reason is Drop.ICMP_LIMIT
    assert isinstance(ours.receive(packet, 10.011), Answer)


@pytest.mark.parametrize(
    ("packet", "to_many"),
    [
        (TO_US / A4 / UDP(sport=1000, dport=53) / Raw(b"q"), False),
        (TO_ALL / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=1000, dport=67) / Raw(b"q"), True),
        (TO_ALL / IP(src="10.0.0.7", dst="10.0.0.255") / UDP(sport=1000, dport=67) / Raw(b"q"), True),
        (TO_ALL / A4 / UDP(sport=1000, dport=53) / Raw(b"q"), True),
        (TO_US / A6 / UDP(sport=1000, dport=53) / Raw(b"q"), False),
    ],
)
def test_datagrams_for_services(packet: Packet, to_many: bool) -> None:
    ours = stack()
    found = ours.receive(bytes(packet), 0)
    assert isinstance(found, Datagram)
    assert (found.mac.hex(":"), found.source_port, found.to_many, found.payload) == (
        THEIRS,
        1000,
        to_many,
        b"q",
    )
    if not to_many:
        read = Ether(ours.reply(found, b"answer"))
        checked(read[IP] if IP in read else read[IPv6])
        assert (read.dst, read[UDP].sport, read[UDP].dport, read[Raw].load) == (
            THEIRS,
            found.port,
            1000,
            b"answer",
        )


@pytest.mark.parametrize("source", ["fe80::7", "::"])
def test_router_solicitation(source: str) -> None:
    stationed = Stack(MAC, [], groups=[IPv6Address("ff02::2")])
    frame = Ether(src=THEIRS, dst="33:33:00:00:00:02") / IPv6(src=source, dst="ff02::2") / ICMPv6ND_RS()
    found = stationed.receive(bytes(frame), 0)
    assert isinstance(found, Solicitation)
    assert (str(found.source), found.mac.hex(":")) == (source, THEIRS)
    with pytest.raises(WireError, match="not-for-us"):
        stack().receive(bytes(frame), 0)


def hops(packet: Packet) -> Packet:
    packet = packet.copy()
    packet[IPv6].hlim = 254
    return packet


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (Ether(src=THEIRS, dst="02:00:00:00:00:02") / A4 / ICMP(), Drop.NOT_FOR_US),
        (Ether(src="33:33:00:00:00:01", dst=OURS) / A4 / ICMP(), Drop.BAD_SOURCE),
        (TO_US / Dot1Q(vlan=5) / A4 / ICMP(), Drop.ETHERTYPE),
        (TO_ALL / ARP(op=1, hwsrc=THEIRS, psrc="10.0.0.7", pdst="10.0.0.2"), Drop.NOT_FOR_US),
        (TO_US / ARP(op=2, hwsrc=THEIRS, psrc="10.0.0.7", pdst="10.0.0.1"), Drop.ARP),
        (TO_US / IP(src="10.0.0.7", dst="10.0.0.2") / ICMP(), Drop.NOT_FOR_US),
        (TO_ALL / IP(src="10.0.0.7", dst="10.0.0.255") / ICMP(), Drop.ICMP_TYPE),
        (TO_ALL / A4 / ICMP(), Drop.ICMP_TYPE),
        (TO_US / IP(src="0.0.0.0", dst="10.0.0.1") / ICMP(), Drop.BAD_SOURCE),
        (TO_US / A4 / ICMP(type=13), Drop.ICMP_TYPE),
        (TO_US / A4 / TCP(dport=53), Drop.PROTOCOL),
        (TO_US / IP(src="10.0.0.7", dst="10.0.0.1", proto=58) / ICMPv6EchoRequest(), Drop.PROTOCOL),
        (TO_ALL / IP(src="10.0.0.7", dst="10.0.0.255") / UDP(dport=7), Drop.NO_PORT),
        (TO_ALL / A4 / UDP(dport=7), Drop.NO_PORT),
        (TO_US / IP(src="0.0.0.0", dst="10.0.0.1") / UDP(dport=7), Drop.NO_PORT),
        (
            Ether(src=THEIRS, dst="01:00:5e:00:00:fb") / IP(src="10.0.0.7", dst="224.0.0.251") / UDP(),
            Drop.NOT_FOR_US,
        ),
        (TO_US / IPv6(src="::", dst="fd00::1") / ICMPv6EchoRequest(), Drop.ICMP_TYPE),
        (TO_US / A6 / ICMPv6MLReport2(), Drop.ICMP_TYPE),
        (TO_US / A6 / ICMPv6ND_NS(tgt="fd00::2"), Drop.NOT_FOR_US),
        (hops(TO_US / A6 / NS), Drop.NDP),
        (TO_US / A6 / ICMPv6ND_NS(code=1, tgt="fd00::1"), Drop.NDP),
        (TO_GROUP / IPv6(src="::", dst=SOLICITED) / NS, Drop.NDP),
        (TO_US / IPv6(src="::", dst="fd00::1") / ICMPv6ND_NS(tgt="fd00::1"), Drop.NDP),
        (TO_US / A6 / ICMPv6ND_NS(tgt="fd00::1") / Raw(bytes(8)), Drop.NDP),
        (TO_US / IPv6(src="::", dst="fd00::1") / ICMPv6ND_RS() / ICMPv6NDOptSrcLLAddr(), Drop.NDP),
    ],
)
def test_dropped(packet: Packet, reason: Drop) -> None:
    with pytest.raises(WireError) as error:
        stack().receive(bytes(packet), 0)
    assert error.value.reason is reason


@pytest.mark.parametrize(("kind", "length"), [(135, 19), (133, 3)])
def test_cut_off_solicitation(kind: int, length: int) -> None:
    theirs, ours = IPv6Address("fd00::7"), IPv6Address("fd00::1")
    message = build_icmp(theirs, ours, Icmp(kind, 0, bytes(length)))
    frame = build_ethernet(MAC, MAC, 0x86DD, build_ip(theirs, ours, 58, message, hops=255))
    with pytest.raises(WireError) as error:
        stack().receive(frame, 0)
    assert error.value.reason is Drop.NDP
