"""Requests that scapy makes, replies as scapy reads them, and what no client sends."""

from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from scapy.layers.dhcp import BOOTP, DHCP

from vbackend.services.dhcp4_message import (
    Kind,
    Option,
    Reply,
    Request,
    build_reply,
    encode_routes,
    parse_request,
)
from vbackend.services.reasons import Drop, WireError

MAC = bytes.fromhex("525400000007")


def message(*options: object, end: bool = True, **fields: Any) -> bytes:
    """A client's message; type DISCOVER unless `options` say another."""
    if not any(isinstance(one, tuple) and one[0] == "message-type" for one in options):
        options = (("message-type", "discover"), *options)
    given: dict[str, Any] = {"op": 1, "xid": 7, "chaddr": MAC, **fields}
    head = BOOTP(**given)
    return bytes(head / DHCP(options=[*options, *(["end"] if end else [])]))


def test_discover_with_all_that_matters() -> None:
    data = message(
        ("client_id", b"\xffsome-duid"),
        ("hostname", b"Guest.example"),
        ("requested_addr", "10.0.0.5"),
        ("lease_time", 600),
        ("param_req_list", [1, 3, 6]),
        ("max_dhcp_size", 1500),
        ("vendor_class_id", b"scapy"),
        flags=0x8000,
        secs=3,
        ciaddr="10.0.0.9",
        giaddr="10.0.0.8",
    )
    assert parse_request(data) == Request(
        kind=Kind.DISCOVER,
        xid=7,
        mac=MAC,
        ciaddr=IPv4Address("10.0.0.9"),
        giaddr=IPv4Address("10.0.0.8"),
        broadcast=True,
        secs=3,
        client_id=b"\xffsome-duid",
        hostname="guest",
        requested=IPv4Address("10.0.0.5"),
        lease=600,
        wanted=b"\1\3\6",
        max_size=1500,
    )


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("request", Kind.REQUEST),
        ("decline", Kind.DECLINE),
        ("release", Kind.RELEASE),
        ("inform", Kind.INFORM),
    ],
)
def test_kinds(word: str, kind: Kind) -> None:
    request = parse_request(message(("message-type", word), ("server_id", "10.0.0.1")))
    assert (request.kind, request.server) == (kind, IPv4Address("10.0.0.1"))
    assert request.client == b"\1" + MAC
    assert request.wanted is None


def test_options_in_pieces_and_in_other_fields() -> None:
    """RFC 3396 and RFC 2132 9.3; the pieces' order is options, file, sname."""
    data = message(
        (52, b"\3"),
        (12, b"gu"),
        file=b"\x0c\x02es\xff".ljust(128, b"\0"),
        sname=b"\x0c\x01t\xff".ljust(64, b"\0"),
    )
    assert parse_request(data).hostname == "guest"


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ([(12, b"h1")], "h1"),
        ([(12, b"h1\0")], "h1"),
        ([(12, b"h 1")], None),
        ([(12, b"")], None),
        ([(12, b"\xff\xfe")], None),
        ([(12, b"-")], None),
        ([(81, b"\1\0\0H1.example")], "h1"),
        ([(81, b"\5\0\0\2H1\7example\0")], "h1"),
        ([(81, b"\5\0\0\x40H1")], "h1"),
        ([(81, b"\5\0\0")], None),
        ([(12, b"h1"), (81, b"\1\0\0h2")], "h1"),
    ],
)
def test_host_names(options: list[tuple[int, bytes]], name: str | None) -> None:
    assert parse_request(message(*options)).hostname == name


WHOLE = message()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Drop.SHORT),
        (WHOLE[:239], Drop.SHORT),
        (WHOLE[:240], Drop.DHCP_FORMAT),
        (message(op=2), Drop.DHCP_FORMAT),
        (message(htype=6), Drop.DHCP_FORMAT),
        (message(hlen=16), Drop.DHCP_FORMAT),
        (message(chaddr=bytes(6)), Drop.DHCP_FORMAT),
        (message(chaddr=b"\xff" * 6), Drop.DHCP_FORMAT),
        (WHOLE[:236] + bytes(4) + WHOLE[240:], Drop.DHCP_FORMAT),
        (message((53, b"\1")), Drop.DHCP_FORMAT),  # one option of two bytes then
        (message((50, b"\1\2\3")), Drop.DHCP_FORMAT),
        (message((54, b"\1\2\3\4\5")), Drop.DHCP_FORMAT),
        (message((51, b"\1")), Drop.DHCP_FORMAT),
        (message((57, b"\1")), Drop.DHCP_FORMAT),
        (message((61, b"\1")), Drop.DHCP_FORMAT),
        (message((61, b"\1" * 200), (61, b"\1" * 200)), Drop.DHCP_FORMAT),
        (message((52, b"\4")), Drop.DHCP_FORMAT),
        (message((52, b"\1"), file=b"\x0c\xff".ljust(128, b"x")), Drop.DHCP_FORMAT),
        (message(end=False) + b"\x0c", Drop.DHCP_FORMAT),
        (message(end=False) + b"\x0c\x05abcd", Drop.DHCP_FORMAT),
        (message(("message-type", "offer")), Drop.DHCP_TYPE),
        (message(("message-type", 99)), Drop.DHCP_TYPE),
    ],
)
def test_refused(data: bytes, reason: Drop) -> None:
    with pytest.raises(WireError) as error:
        parse_request(data)
    assert error.value.reason is reason


def test_message_without_an_end_is_read() -> None:
    assert parse_request(message(end=False)).kind is Kind.DISCOVER


def test_reply_as_scapy_reads_it() -> None:
    request = Request(Kind.DISCOVER, 7, MAC, broadcast=True)
    options = ((Option.SERVER, b"\x0a\0\0\1"), (Option.MASK, b"\xff\xff\xff\0"), (Option.DOMAIN, b"lab"))
    data = build_reply(Reply(Kind.OFFER, request, IPv4Address("10.0.0.5"), options=options))
    read = BOOTP(data)
    assert (read.op, read.xid, read.yiaddr, read.ciaddr, read.chaddr[:6]) == (
        2,
        7,
        "10.0.0.5",
        "0.0.0.0",
        MAC,
    )
    assert read.flags == "B"
    assert len(data) == 300
    found = [one for one in read[DHCP].options if one != "pad"]
    assert found == [
        ("message-type", 2),
        ("server_id", "10.0.0.1"),
        ("subnet_mask", "255.255.255.0"),
        ("domain", b"lab"),
        "end",
    ]


@pytest.mark.parametrize(("max_size", "routes"), [(576, False), (1500, True)])
def test_what_the_client_cannot_take_is_left_out(max_size: int, routes: bool) -> None:
    request = Request(Kind.DISCOVER, 7, MAC, max_size=max_size)
    options = ((Option.ROUTES, bytes(400)), (Option.DOMAIN, b"lab"))
    data = build_reply(Reply(Kind.OFFER, request, options=options))
    assert len(data) <= max_size - 28
    assert (b"\x79\xff" in data) is routes, "in two pieces, RFC 3396"
    assert b"\x0f\x03lab\xff" in data


def test_routes() -> None:
    """The examples of RFC 3442 are of this form: only significant bytes."""
    via = IPv4Address("10.0.0.254")
    routes = (
        (IPv4Network("0.0.0.0/0"), via),
        (IPv4Network("10.0.0.0/8"), via),
        (IPv4Network("10.17.0.0/17"), via),
        (IPv4Network("10.1.2.3/32"), via),
    )
    expected = "00 0a0000fe 08 0a 0a0000fe 11 0a1100 0a0000fe 20 0a010203 0a0000fe"
    assert encode_routes(routes) == bytes.fromhex(expected)
