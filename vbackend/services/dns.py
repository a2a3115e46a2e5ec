"""The lab's name service: what it answers itself, and what is to be forwarded. Pure; messages are dnspython's.

It is the authority for its domain, for names without a dot, and for the reverse names of addresses it knows. UDP
only: a station has no TCP, so an answer that is too long for the client has the TC bit and its question alone.
"""

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.rrset
from dns.rdatatype import RdataType

from vbackend.services.config import DnsConfig
from vbackend.services.reasons import Drop, WireError
from vbackend.services.wire import Address

__all__ = ["DNS_PORT", "Forward", "NameServer", "Names", "Resolved", "fit", "valid_answer"]

DNS_PORT: Final = 53
LONGEST_ANSWER: Final = 1232  # fits every link's MTU: what resolvers agreed on in 2020 (dnsflagday.net)
_SHORTEST_ANSWER: Final = 512  # RFC 1035 4.2.1
_HEAD: Final = 12

_Known = tuple[str, Address]  # the whole name in small letters; text, since all are compared for each query
Names = Callable[[float], Iterable[tuple[str, Address]]]


@dataclass(frozen=True, slots=True)
class Resolved:
    """`rcode`: by name, "NOERROR"."""

    wire: bytes
    rcode: str


@dataclass(frozen=True, slots=True)
class Forward:
    """A query for other name servers."""

    query: dns.message.Message
    wire: bytes


class NameServer:
    """`more`: names besides those of the configuration, without domain, at a time: what DHCP clients call themselves.
    `networks`: where an address that has no name has none anywhere."""

    def __init__(
        self,
        config: DnsConfig,
        more: Names = lambda _: (),
        networks: Sequence[IPv4Network | IPv6Network] = (),
    ) -> None:
        self._ttl = config.ttl
        self._forward = config.forward
        self._more = more
        self._networks = networks
        self._domain = config.domain.lower()
        self._origin = dns.name.from_text(self._domain)
        self._records: Mapping[str, tuple[Address, ...]] = {
            self._full(name): addresses for name, addresses in config.records.items()
        }

    def handle(self, data: bytes, now: float) -> Resolved | Forward:
        """`now` is passed on to `more`. `WireError`: it is no query."""
        if len(data) < _HEAD or data[2] & 0x80:
            raise WireError(Drop.DNS_FORMAT)
        if data[2] & 0x78:
            return _headless(data, dns.rcode.NOTIMP)
        try:
            query = dns.message.from_wire(data, keyring=False)
        except (dns.exception.DNSException, ValueError):
            return _headless(data, dns.rcode.FORMERR)
        if len(query.question) != 1:
            return self._failed(query, dns.rcode.FORMERR)
        if query.edns > 0:
            return self._failed(query, dns.rcode.BADVERS)
        (question,) = query.question
        if question.rdclass != dns.rdataclass.IN:
            return self._failed(query, dns.rcode.REFUSED)
        known = list(self._all(now))
        answer = self._local(known, question.name, question.rdtype)
        if answer is not None:
            return self._answer(query, *answer)
        return Forward(query, data) if self._forward else self._failed(query, dns.rcode.REFUSED)

    def failed(self, forward: Forward) -> Resolved:
        """The answer to what no other name server has answered."""
        return self._failed(forward.query, dns.rcode.SERVFAIL)

    def _local(
        self, known: Sequence[_Known], name: dns.name.Name, rdtype: RdataType
    ) -> tuple[list[dns.rrset.RRset], bool] | None:
        """Answers, and whether the name exists; None: the name is not ours."""
        reverse = _reverse(name)
        if reverse is not None:
            texts = [f"{full}." for full, address in known if address == reverse]
            if not texts and not any(reverse in network for network in self._networks):
                return None
            return self._sets(name, rdtype, {RdataType.PTR: texts}), bool(texts)
        if name.is_subdomain(self._origin):
            full = _text(name)
        elif len(name) == 2 and rdtype in (RdataType.A, RdataType.AAAA, RdataType.ANY):
            full = f"{_text(name)}.{self._domain}"
        else:
            return None
        addresses = [address for one, address in known if one == full]
        kinds = {
            RdataType.A: [str(one) for one in addresses if one.version == 4],
            RdataType.AAAA: [str(one) for one in addresses if one.version == 6],
            RdataType.SOA: [self._soa()] if full == self._domain else [],
        }
        below = f".{full}"
        exists = full == self._domain or any(
            one == full or one.endswith(below) for one, _ in known
        )  # RFC 8020
        return self._sets(name, rdtype, kinds), exists

    def _all(self, now: float) -> Iterator[_Known]:
        """A name of the configuration is nobody else's."""
        for full, addresses in self._records.items():
            yield from ((full, address) for address in addresses)
        for name, address in self._more(now):
            full = self._full(name)
            if full not in self._records:
                yield full, address

    def _full(self, name: str) -> str:
        """A record's name in the domain, whether it is written with it or not."""
        name = name.lower()
        inside = name == self._domain or name.endswith(f".{self._domain}")
        return name if inside else f"{name}.{self._domain}"

    def _sets(
        self, name: dns.name.Name, rdtype: RdataType, kinds: Mapping[RdataType, list[str]]
    ) -> list[dns.rrset.RRset]:
        return [
            dns.rrset.from_text_list(name, self._ttl, dns.rdataclass.IN, kind, values)
            for kind, values in kinds.items()
            if values and rdtype in (kind, RdataType.ANY)
        ]

    def _soa(self) -> str:
        return f"{self._origin} hostmaster.{self._origin} 1 3600 600 86400 {self._ttl}"

    def _answer(self, query: dns.message.Message, answers: list[dns.rrset.RRset], exists: bool) -> Resolved:
        response = self._response(query)
        response.flags |= dns.flags.AA
        response.answer = answers
        if not answers:  # RFC 2308: how long to believe it
            response.authority = self._sets(self._origin, RdataType.SOA, {RdataType.SOA: [self._soa()]})
        if not exists:
            response.set_rcode(dns.rcode.NXDOMAIN)
        return _resolved(query, response)

    def _failed(self, query: dns.message.Message, rcode: dns.rcode.Rcode) -> Resolved:
        response = self._response(query)
        response.set_rcode(rcode)
        return _resolved(query, response)

    def _response(self, query: dns.message.Message) -> dns.message.Message:
        return dns.message.make_response(query, recursion_available=self._forward, our_payload=LONGEST_ANSWER)


def _resolved(query: dns.message.Message, response: dns.message.Message) -> Resolved:
    return Resolved(fit(query, response.to_wire()), dns.rcode.to_text(response.rcode()))


def _headless(data: bytes, rcode: dns.rcode.Rcode) -> Resolved:
    """The answer to what cannot be read: only a header."""
    flags = bytes([data[2] & 0x79 | 0x80, rcode])
    return Resolved(data[:2] + flags + bytes(8), dns.rcode.to_text(rcode))


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()


def _reverse(name: dns.name.Name) -> Address | None:
    """The address whose reverse name it is (RFC 1035 3.5, RFC 3596 2.5)."""
    try:
        return ipaddress.ip_address(dns.reversename.to_address(name))
    except (dns.exception.DNSException, ValueError):
        return None


def fit(query: dns.message.Message, wire: bytes) -> bytes:
    """An answer as it is, or its head and question with the TC bit, when the client cannot take it in one datagram."""
    most = max(_SHORTEST_ANSWER, query.payload) if query.edns >= 0 else _SHORTEST_ANSWER
    if len(wire) <= min(most, LONGEST_ANSWER):
        return wire
    short = dns.message.make_response(query, our_payload=LONGEST_ANSWER)
    short.id = int.from_bytes(wire[:2])
    short.flags = int.from_bytes(wire[2:4]) & 0xFFF0 | dns.flags.TC
    return short.to_wire()


def valid_answer(query: dns.message.Message, wire: bytes) -> bool:
    """Whether it answers the query's question: what RFC 5452 9.1 has checked besides address and port."""
    try:
        answer = dns.message.from_wire(wire, question_only=True)
    except (dns.exception.DNSException, ValueError):
        return False
    return query.is_response(answer)
