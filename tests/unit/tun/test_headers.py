"""Every codec, for four systems and both families, against bytes written by hand."""

import errno
from ipaddress import IPv4Address, IPv6Address
from typing import cast

import pytest

from vbackend.errors import VbackendError
from vbackend.tun.headers import (
    LINKTYPES,
    ByteOrder,
    Decoded,
    Family,
    HeaderError,
    decode,
    encode,
    family_number,
)
from vbackend.tun.vocabulary import HEADERS, SYSTEMS, Address, Header, System

# 20 and 40 bytes of IP header, to 10.7.0.2 and fd00::2, and two bytes behind it
IPV4 = bytes.fromhex("4500001600000000400000000a0700010a070002 abcd")
IPV6 = bytes.fromhex(
    "6000000000023b40 fd000000000000000000000000000001 fd000000000000000000000000000002 abcd"
)
PACKET = {Family.INET: IPV4, Family.INET6: IPV6}
TO: dict[Family, Address] = {Family.INET: IPv4Address("10.7.0.2"), Family.INET6: IPv6Address("fd00::2")}

TO4 = "0a070002 0000000000000000"
TO6 = "00000000 fd000000000000000000000000000002 00000000"
MACS = bytes.fromhex("525400000001"), bytes.fromhex("525400000002")

# header, system, family, the header on a little-endian host, on a big-endian one
TABLE: list[tuple[Header, System, Family, str, str]] = [
    ("null", "netbsd", Family.INET, "02000000", "00000002"),
    ("null", "netbsd", Family.INET6, "18000000", "00000018"),
    ("null", "freebsd", Family.INET, "02000000", "00000002"),
    ("null", "freebsd", Family.INET6, "1c000000", "0000001c"),
    ("null", "darwin", Family.INET, "02000000", "00000002"),
    ("null", "darwin", Family.INET6, "1e000000", "0000001e"),
    ("null", "linux", Family.INET, "02000000", "00000002"),
    ("null", "linux", Family.INET6, "18000000", "00000018"),
    ("loop", "netbsd", Family.INET, "00000002", "00000002"),
    ("loop", "netbsd", Family.INET6, "00000018", "00000018"),
    ("loop", "freebsd", Family.INET, "00000002", "00000002"),
    ("loop", "freebsd", Family.INET6, "0000001c", "0000001c"),
    ("loop", "darwin", Family.INET, "00000002", "00000002"),
    ("loop", "darwin", Family.INET6, "0000001e", "0000001e"),
    ("loop", "linux", Family.INET, "00000002", "00000002"),
    ("loop", "linux", Family.INET6, "00000018", "00000018"),
    ("sockaddr", "netbsd", Family.INET, f"1002 0000 {TO4}", f"1002 0000 {TO4}"),
    ("sockaddr", "netbsd", Family.INET6, f"1c18 0000 {TO6}", f"1c18 0000 {TO6}"),
    ("sockaddr", "freebsd", Family.INET, f"1002 0000 {TO4}", f"1002 0000 {TO4}"),
    ("sockaddr", "freebsd", Family.INET6, f"1c1c 0000 {TO6}", f"1c1c 0000 {TO6}"),
    ("sockaddr", "darwin", Family.INET, f"1002 0000 {TO4}", f"1002 0000 {TO4}"),
    ("sockaddr", "darwin", Family.INET6, f"1c1e 0000 {TO6}", f"1c1e 0000 {TO6}"),
    ("sockaddr", "linux", Family.INET, f"0200 0000 {TO4}", f"0002 0000 {TO4}"),
    ("sockaddr", "linux", Family.INET6, f"0a00 0000 {TO6}", f"000a 0000 {TO6}"),
]
for each in SYSTEMS:  # the same on all of them
    TABLE += [
        ("none", each, Family.INET, "", ""),
        ("none", each, Family.INET6, "", ""),
        ("pi", each, Family.INET, "0100 0800", "0001 0800"),
        ("pi", each, Family.INET6, "0100 86dd", "0001 86dd"),
        ("ether", each, Family.INET, "525400000001 525400000002 0800", "525400000001 525400000002 0800"),
        ("ether", each, Family.INET6, "525400000001 525400000002 86dd", "525400000001 525400000002 86dd"),
    ]
CASES = [
    (header, system, family, order, bytes.fromhex(bits))
    for header, system, family, *both in TABLE
    for order, bits in zip(("little", "big"), both, strict=True)
]


def test_the_table_is_complete() -> None:
    assert {row[:3] for row in TABLE} == {(h, s, f) for h in HEADERS for s in SYSTEMS for f in Family}


@pytest.mark.parametrize(("header", "system", "family", "order", "head"), CASES)
def test_codec(header: Header, system: System, family: Family, order: ByteOrder, head: bytes) -> None:
    packet = PACKET[family]
    written = encode(header, packet, family=family, system=system, order=order, flags=1, ether=MACS)
    assert written == head + packet
    expected = Decoded(
        family,
        packet,
        destination=TO[family] if header == "sockaddr" else None,
        flags=1 if header == "pi" else 0,
    )
    assert decode(header, written, system=system, order=order) == expected


@pytest.mark.parametrize(("header", "system", "family", "order", "head"), CASES)
def test_cut_at_every_length(
    header: Header, system: System, family: Family, order: ByteOrder, head: bytes
) -> None:
    """Up to 16 bytes a sockaddr is an error, and between them and its end there is no packet (rule W2)."""
    least = min(len(head), 16) or 1
    whole = head + PACKET[family]
    for length in range(len(whole)):
        if length < least:
            with pytest.raises(HeaderError, match=f"read {header}: {length} bytes") as refused:
                decode(header, whole[:length], system=system, order=order)
            assert refused.value.errno == errno.EIO
        else:
            found = decode(header, whole[:length], system=system, order=order)
            assert (found.family, found.payload) == (family, whole[len(head) : length])
            assert (found.destination is not None) == (header == "sockaddr" and length >= len(head))


@pytest.mark.parametrize("number", [24, 28, 30, 10])
@pytest.mark.parametrize("system", SYSTEMS)
def test_all_four_numbers_are_read_everywhere(number: int, system: System) -> None:
    sockaddr = bytes([28, number]) + bytes(26)
    if system == "linux":
        sockaddr = number.to_bytes(2, "little") + bytes(26)
    for header, data in (
        ("null", number.to_bytes(4, "little") + IPV6),
        ("null", number.to_bytes(4, "big") + IPV6),
        ("loop", number.to_bytes(4, "big") + IPV6),
        ("sockaddr", sockaddr + IPV6),
    ):
        found = decode(cast(Header, header), data, system=system, order="little")
        assert (found.family, found.payload) == (Family.INET6, IPV6)


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("data", ["02000000", "00000002"])
def test_null_is_read_in_both_orders(order: ByteOrder, data: str) -> None:
    assert decode("null", bytes.fromhex(data) + IPV4, order=order) == Decoded(Family.INET, IPV4)


@pytest.mark.parametrize(
    ("sa_len", "skipped"), [(0, 16), (15, 16), (16, 16), (17, 17), (28, 28), (128, 128), (255, 255)]
)
def test_surplus_of_a_sockaddr_is_skipped(sa_len: int, skipped: int) -> None:
    data = bytes([sa_len, 2]) + bytes(range(2, 16)) + bytes(300)
    assert decode("sockaddr", data).payload == data[skipped:]


def test_ipv6_in_the_least_sockaddr_has_no_destination() -> None:
    assert decode("sockaddr", bytes([16, 24]) + bytes(14) + IPV6) == Decoded(Family.INET6, IPV6)


@pytest.mark.parametrize(
    ("header", "system", "data"),
    [
        ("none", "netbsd", "50"),
        ("none", "netbsd", "00"),
        ("null", "netbsd", "17000000"),
        ("null", "netbsd", "00000000"),
        ("null", "netbsd", "02000002"),
        ("loop", "netbsd", "02000000"),
        ("sockaddr", "netbsd", "1000" + "00" * 14),
        ("sockaddr", "netbsd", "0200" + "00" * 14),
        ("sockaddr", "linux", "1002" + "00" * 14),
        ("sockaddr", "linux", "0002" + "00" * 14),
        ("pi", "netbsd", "00000806"),
        ("pi", "netbsd", "0000dd86"),
        ("ether", "netbsd", "00" * 12 + "8100"),
        ("ether", "netbsd", "00" * 12 + "0806"),
        ("ether", "netbsd", "00" * 12 + "88a8"),
    ],
)
def test_what_is_not_ip(header: Header, system: System, data: str) -> None:
    with pytest.raises(HeaderError, match=f"read {header}: family") as refused:
        decode(header, bytes.fromhex(data), system=system, order="little")
    assert refused.value.errno == errno.EAFNOSUPPORT


def test_a_destination_that_is_given_goes_before_the_packets_own() -> None:
    hop = IPv4Address("192.0.2.1")
    written = encode("sockaddr", IPV4, family=4, destination=hop)
    assert decode("sockaddr", written) == Decoded(Family.INET, IPV4, hop)
    assert encode("sockaddr", b"", family=4, destination=hop)[4:8] == hop.packed


@pytest.mark.parametrize(
    ("write", "code", "text"),
    [
        (lambda: encode("null", IPV4, family=5), errno.EAFNOSUPPORT, "family 5"),
        (lambda: encode("sockaddr", IPV4[:19], family=4), errno.EIO, "19 bytes hold no IPv4 destination"),
        (lambda: encode("sockaddr", IPV6[:39], family=6), errno.EIO, "39 bytes hold no IPv6 destination"),
        (
            lambda: encode("sockaddr", IPV4, family=4, destination=IPv6Address("::1")),
            errno.EAFNOSUPPORT,
            "destination ::1 of an IPv4 packet",
        ),
        (lambda: encode("pi", IPV4, family=4, flags=65536), errno.EINVAL, "flags 65536"),
        (lambda: encode("ether", IPV4, family=4, ether=(b"", b"")), errno.EINVAL, "two of 6 bytes"),
        (lambda: encode(cast(Header, "snap"), IPV4, family=4), errno.EINVAL, "header 'snap' of 'netbsd'"),
        (lambda: decode("null", IPV4, system=cast(System, "minix")), errno.EINVAL, "of 'minix'"),
    ],
)
def test_refusals(write: object, code: int, text: str) -> None:
    assert callable(write)
    with pytest.raises(HeaderError, match=text) as refused:
        write()
    assert refused.value.errno == code
    assert isinstance(refused.value, ValueError)
    assert isinstance(refused.value, VbackendError)


def test_numbers() -> None:
    assert [family_number(Family.INET6, system) for system in SYSTEMS] == [24, 28, 30, 10]
    assert {family_number(Family.INET, system) for system in SYSTEMS} == {2}
    assert LINKTYPES == {"none": 101, "null": 0, "loop": 108, "sockaddr": 0, "pi": 0, "ether": 1}
