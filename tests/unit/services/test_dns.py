"""Questions and answers; dnspython asks, and reads what the name service says."""

import time
from ipaddress import ip_address, ip_network
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest

from vbackend.services.config import DnsConfig
from vbackend.services.dns import Forward, NameServer, Resolved, fit, valid_answer
from vbackend.services.reasons import Drop, WireError

RECORDS = {
    "www": (ip_address("10.0.0.9"), ip_address("fd00::9")),
    "six.lab": (ip_address("fd00::6"),),
    "a.deep": (ip_address("10.0.0.8"),),
}
LEASES = {100.0: [("guest", ip_address("10.0.0.100")), ("www", ip_address("10.0.0.101"))]}
NETWORKS = [ip_network("10.0.0.0/24"), ip_network("fd00::/64")]


def server(**options: Any) -> NameServer:
    config = DnsConfig(records=RECORDS, **options)
    return NameServer(config, lambda now: LEASES.get(now, []), NETWORKS)


def ask(
    name: str, rdtype: str = "A", *, now: float = 100.0, edns: int | bool = False, **options: Any
) -> dns.message.Message:
    query = dns.message.make_query(name, rdtype, use_edns=edns)
    found = server(**options).handle(query.to_wire(), now)
    assert isinstance(found, Resolved)
    answer = dns.message.from_wire(found.wire)
    assert query.is_response(answer)
    assert found.rcode == dns.rcode.to_text(answer.rcode())
    return answer


def texts(answer: dns.message.Message) -> list[str]:
    return [item.to_text() for each in answer.answer for item in each]


@pytest.mark.parametrize(
    ("name", "rdtype", "expected"),
    [
        ("www.lab", "A", ["10.0.0.9"]),
        ("WWW.Lab", "AAAA", ["fd00::9"]),
        ("www.lab", "ANY", ["10.0.0.9", "fd00::9"]),
        ("www", "A", ["10.0.0.9"]),
        ("six.lab", "AAAA", ["fd00::6"]),
        ("six", "AAAA", ["fd00::6"]),
        ("a.deep.lab", "A", ["10.0.0.8"]),
        ("guest.lab", "A", ["10.0.0.100"]),
        ("9.0.0.10.in-addr.arpa", "PTR", ["www.lab."]),
        ("100.0.0.10.in-addr.arpa", "PTR", ["guest.lab."]),
        ("lab", "SOA", ["lab. hostmaster.lab. 1 3600 600 86400 30"]),
        ("six.lab", "A", []),
        ("six.lab", "MX", []),
        ("deep.lab", "A", []),
        ("lab", "A", []),
        ("9.0.0.10.in-addr.arpa", "A", []),
    ],
)
def test_names_of_the_lab(name: str, rdtype: str, expected: list[str]) -> None:
    answer = ask(name, rdtype)
    assert answer.rcode() == dns.rcode.NOERROR
    assert answer.flags & dns.flags.AA
    assert texts(answer) == expected
    assert all(each.name == answer.question[0].name and each.ttl == 30 for each in answer.answer)
    assert bool(answer.authority) is not bool(expected), "RFC 2308: how long there is nothing"


def test_reverse_name_of_ipv6() -> None:
    assert texts(ask(ip_address("fd00::9").reverse_pointer, "PTR")) == ["www.lab."]


@pytest.mark.parametrize(
    ("name", "rdtype"),
    [
        ("nobody.lab", "A"),
        ("nobody", "A"),
        ("x.www.lab", "A"),
        ("101.0.0.10.in-addr.arpa", "PTR"),  # the configuration's name is not that client's
        ("7.0.0.10.in-addr.arpa", "PTR"),
    ],
)
def test_names_that_the_lab_has_not(name: str, rdtype: str) -> None:
    answer = ask(name, rdtype)
    assert answer.rcode() == dns.rcode.NXDOMAIN
    assert [each.rdtype for each in answer.authority] == [dns.rdatatype.SOA]
    assert ask("guest.lab", now=200.0).rcode() == dns.rcode.NXDOMAIN, "its lease is over"


@pytest.mark.parametrize(
    ("name", "rdtype"),
    [
        ("example.com", "A"),
        ("com", "NS"),
        (".", "NS"),
        ("lab.example", "A"),
        ("1.1.168.192.in-addr.arpa", "PTR"),
    ],
)
def test_the_rest_is_forwarded_or_refused(name: str, rdtype: str) -> None:
    assert ask(name, rdtype).rcode() == dns.rcode.REFUSED
    query = dns.message.make_query(name, rdtype)
    forwarding = server(forward=True)
    found = forwarding.handle(query.to_wire(), 0)
    assert isinstance(found, Forward)
    assert found.wire == query.to_wire()
    failed = dns.message.from_wire(forwarding.failed(found).wire)
    assert query.is_response(failed)
    assert (failed.rcode(), bool(failed.flags & dns.flags.RA)) == (dns.rcode.SERVFAIL, True)


def test_edns() -> None:
    answer = ask("www.lab", edns=0)
    assert (answer.edns, answer.payload) == (0, 1232)
    assert ask("www.lab").edns == -1
    assert ask("www.lab", edns=1).rcode() == dns.rcode.BADVERS


QUERY = dns.message.make_query("www.lab", "A", id=0x1234).to_wire()


@pytest.mark.parametrize(
    ("data", "rcode"),
    [
        (QUERY[:2] + b"\x28" + QUERY[3:], "NOTIMP"),  # an update
        (QUERY[:-1], "FORMERR"),
        (QUERY + b"x", "FORMERR"),
        (QUERY[:12] + b"\xc0\x0c\0\1\0\1", "FORMERR"),  # a name that points to itself
        (QUERY[:4] + bytes(8), "FORMERR"),  # no question
        (QUERY[:-1] + b"\3", "REFUSED"),  # class CH
    ],
)
def test_other_messages(data: bytes, rcode: str) -> None:
    found = server().handle(data, 0)
    assert isinstance(found, Resolved)
    answer = dns.message.from_wire(found.wire)
    assert (found.rcode, dns.rcode.to_text(answer.rcode())) == (rcode, rcode)
    assert answer.id == int.from_bytes(data[:2])
    assert answer.flags & dns.flags.QR


@pytest.mark.parametrize("data", [b"", QUERY[:11], QUERY[:2] + b"\x81" + QUERY[3:]])
def test_what_is_no_query_gets_no_answer(data: bytes) -> None:
    with pytest.raises(WireError) as error:
        server().handle(data, 0)
    assert error.value.reason is Drop.DNS_FORMAT


def long_answer(query: dns.message.Message, size: int) -> bytes:
    wire = dns.message.make_response(query, recursion_available=True).to_wire()
    return wire + bytes(size - len(wire))  # `fit` does not look


@pytest.mark.parametrize(
    ("edns", "size", "whole"),
    [
        (None, 512, True),
        (None, 513, False),
        (100, 512, True),
        (100, 513, False),
        (1232, 1232, True),
        (1232, 1233, False),
        (4096, 1233, False),
    ],
)
def test_long_answers_are_cut_to_what_fits(edns: int | None, size: int, whole: bool) -> None:
    query = dns.message.make_query("www.lab", "A", payload=edns, use_edns=False if edns is None else 0)
    wire = long_answer(query, size)
    fitted = fit(query, wire)
    if whole:
        assert fitted == wire
        return
    answer = dns.message.from_wire(fitted)
    assert query.is_response(answer)
    assert answer.flags & dns.flags.TC
    assert answer.flags & dns.flags.RA
    assert not answer.answer


def test_many_addresses_under_one_name() -> None:
    many = tuple(ip_address(f"10.0.1.{n}") for n in range(1, 101))
    query = dns.message.make_query("many.lab", "A", use_edns=False)
    found = NameServer(DnsConfig(records={"many": many})).handle(query.to_wire(), 0)
    assert isinstance(found, Resolved)
    assert len(found.wire) < 512
    assert dns.message.from_wire(found.wire).flags & dns.flags.TC


def test_valid_answers() -> None:
    query = dns.message.make_query("example.com", "A")
    right = dns.message.make_response(query).to_wire()
    assert valid_answer(query, right)
    assert not valid_answer(query, query.to_wire())
    assert not valid_answer(query, b"")
    assert not valid_answer(query, bytes([right[0] ^ 1]) + right[1:])
    assert not valid_answer(query, right.replace(b"example", b"exampla"))


def test_many_names_cost_a_query_little() -> None:
    """All queries of a batch are answered in one turn of the loop."""
    leases = [(f"host{number}", ip_address("10.0.0.0") + number) for number in range(4096)]
    made = NameServer(DnsConfig(), lambda _: leases, [ip_network("10.0.0.0/16")])
    for name, kind in (("host4000.lab", "A"), ("160.15.0.10.in-addr.arpa", "PTR"), ("host.lab", "A")):
        query = dns.message.make_query(name, kind).to_wire()
        took = []
        for _ in range(5):
            began = time.thread_time()
            made.handle(query, 0.0)
            took.append(time.thread_time() - began)
        assert min(took) < 0.02, f"{name}: {min(took)} s"
