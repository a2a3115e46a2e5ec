"""Whatever bytes come in, a station with all services answers or drops, and counts what it did."""

from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

import dns.message
from hypothesis import given
from hypothesis import strategies as st

from vbackend.services.config import Dhcp4Config, DnsConfig, Interface, RaConfig, Services
from vbackend.services.core import Core
from vbackend.services.dhcp4_message import parse_request
from vbackend.services.dns import fit, valid_answer
from vbackend.services.reasons import Drop, WireError
from vbackend.services.wire import (
    Address,
    Arp,
    Icmp,
    Udp,
    build_arp,
    build_ethernet,
    build_icmp,
    build_ip,
    build_ndp_option,
    build_udp,
)

OURS, THEIRS = bytes.fromhex("020000000001"), bytes.fromhex("525400000007")
ALL = b"\xff" * 6
ADDRESSES: list[Interface] = [IPv4Interface("10.0.0.1/24"), IPv6Interface("fd00::1/64")]
A4, A6 = IPv4Address("10.0.0.1"), IPv6Address("fd00::1")
B4, B6 = IPv4Address("10.0.0.7"), IPv6Address("fd00::7")
SERVICES = Services(
    Dhcp4Config(IPv4Address("10.0.0.100"), IPv4Address("10.0.0.110")), RaConfig(), DnsConfig(forward=True)
)
LONG = 1600


def core() -> Core:
    return Core("lan", OURS, ADDRESSES, SERVICES, random=lambda: 0.5, now=0.0)


def udp(source: Address, destination: Address, port: int, payload: bytes, mac: bytes = OURS) -> bytes:
    datagram = build_udp(source, destination, Udp(1000, port, payload))
    ethertype = 0x0800 if source.version == 4 else 0x86DD
    return build_ethernet(mac, THEIRS, ethertype, build_ip(source, destination, 17, datagram))


def icmp6(kind: int, body: bytes) -> bytes:
    message = build_icmp(B6, A6, Icmp(kind, 0, body))
    return build_ethernet(OURS, THEIRS, 0x86DD, build_ip(B6, A6, 58, message, hops=255))


def dhcp(options: bytes, *, secs: bytes = b"\0\0") -> bytes:
    head = b"\1\1\6\0" + b"xidx" + secs + bytes(18) + THEIRS + bytes(10 + 64 + 128)
    return head + bytes([99, 130, 83, 99]) + options


QUERY = dns.message.make_query("www.lab", "A", use_edns=0).to_wire()
INFORM = b"\x0b\1\2\3" + b"\0\1\0\x0a\0\3\0\1" + THEIRS + b"\0\6\0\2\0\x17"
DISCOVER = dhcp(b"\x35\1\1\x3d\7\1" + THEIRS + b"\x0c\2h1\x37\3\1\3\6\xff")
FRAMES = [
    build_ethernet(ALL, THEIRS, 0x0806, build_arp(Arp(1, THEIRS, B4, bytes(6), A4))),
    udp(IPv4Address("0.0.0.0"), IPv4Address("255.255.255.255"), 67, DISCOVER, ALL),
    udp(B4, A4, 53, QUERY),
    udp(B6, A6, 53, QUERY),
    udp(B4, A4, 7, b"x" * 100),
    udp(B6, IPv6Address("ff02::1:2"), 547, INFORM, bytes.fromhex("333300010002")),
    icmp6(128, b"\0\1\0\1data"),
    icmp6(133, bytes(4) + build_ndp_option(1, THEIRS)),
    icmp6(135, bytes(4) + A6.packed + build_ndp_option(1, THEIRS)),
]
mutations = st.lists(st.tuples(st.integers(0, LONG), st.integers(0, 255)), max_size=4)


def survives(frame: bytes) -> None:
    made = core()
    found = made.receive(frame, 0.0, 0.0)
    if found.frame is not None:
        assert 60 <= len(found.frame) <= max(1514, len(frame)), "nothing grows beyond a link's MTU"
    if found.forward is not None:
        made.forwarded(*found.forward, None)
    seen = made.snapshot()
    assert seen.received == 1 == sum(seen.handled.values()) + sum(seen.drops.values())
    assert set(seen.drops) <= {str(reason) for reason in Drop}


@given(st.binary(max_size=LONG))
def test_any_bytes(data: bytes) -> None:
    survives(data)
    survives(OURS + data)


@given(st.sampled_from(FRAMES), mutations, st.integers(0, LONG), st.binary(max_size=20))
def test_good_frames_gone_bad(frame: bytes, changes: list[tuple[int, int]], cut: int, more: bytes) -> None:
    data = bytearray(frame)
    for at, value in changes:
        data[at % len(data)] = value
    survives(bytes(data[: cut if cut < len(data) else None]) + more)


payloads = st.one_of(
    st.binary(max_size=1400),
    st.builds(
        lambda data, at, value: data[: at % len(data)] + value + data[at % len(data) + 1 :],
        st.sampled_from([QUERY, INFORM, DISCOVER]),
        st.integers(0, LONG),
        st.binary(max_size=3),
    ),
    st.binary(max_size=300).map(dhcp),
    st.binary(max_size=300).map(lambda data: b"\x0b\1\2\3" + data),
    st.binary(max_size=300).map(lambda data: QUERY[:12] + data),
    st.binary(max_size=12).map(lambda data: data + QUERY[len(data) :]),
)


@given(payloads, st.sampled_from([53, 67, 547]))
def test_any_payload_of_a_service(payload: bytes, port: int) -> None:
    """With right checksums, so that it gets as far as the service."""
    survives(udp(B4, A4, port, payload))
    survives(udp(B4, IPv4Address("255.255.255.255"), port, payload, ALL))
    survives(udp(B6, A6, port, payload))
    survives(udp(B6, IPv6Address("ff02::1:2"), port, payload, bytes.fromhex("333300010002")))


@given(st.binary(max_size=300), mutations, st.integers(0, LONG))
def test_any_answer_of_another_name_server(data: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    query = dns.message.from_wire(QUERY)
    answer = bytearray(dns.message.make_response(query).to_wire())
    for at, value in changes:
        answer[at % len(answer)] = value
    for wire in (data, QUERY[:2] + b"\x81\x80" + data, bytes(answer[:cut]) + data):
        if valid_answer(query, wire):
            assert len(fit(query, wire)) <= 1232


@given(st.integers(0, 255), st.binary(max_size=200))
def test_any_icmp6(kind: int, body: bytes) -> None:
    survives(icmp6(kind, body))


options = st.lists(
    st.tuples(st.sampled_from([1, 3, 12, 50, 51, 52, 53, 54, 55, 57, 61, 81, 82]), st.binary(max_size=60)),
    max_size=8,
)


@given(options)
def test_any_options_of_dhcp(told: list[tuple[int, bytes]]) -> None:
    """Either a request, whose host name is fit for DNS, or a `WireError`."""
    data = dhcp(b"".join(bytes([code, len(value)]) + value for code, value in told) + b"\xff")
    try:
        request = parse_request(data)
    except WireError:
        return
    assert request.hostname is None or request.hostname.replace("-", "a").replace("_", "a").isalnum()
    survives(udp(B4, A4, 67, data))
