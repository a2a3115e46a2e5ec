"""One station's ARP, neighbour discovery, echo and ICMP errors. Pure: a frame and the time in, what to do out.

    match stack.receive(frame, now):
        case Answer(frame=frame): ...       # send it
        case Datagram() as request: ...     # for a service; stack.reply(request, payload) is the frame back
        case Solicitation(): ...            # a host looks for routers

`WireError`: the frame is dropped. An answer goes to the MAC address the request came from.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Final, Literal

from vbackend.ports.unitport import link_local
from vbackend.services.config import Interface
from vbackend.services.reasons import Drop, WireError
from vbackend.services.wire import (
    ALL_NODES,
    ARP,
    ICMP4,
    ICMP6,
    IPV4,
    IPV6,
    UDP,
    Address,
    Arp,
    Ethernet,
    Icmp,
    Packet,
    Udp,
    build_arp,
    build_ethernet,
    build_icmp,
    build_ip,
    build_ndp_option,
    build_udp,
    multicast_mac,
    parse_arp,
    parse_ethernet,
    parse_icmp,
    parse_ip,
    parse_ndp_options,
    parse_udp,
    solicited_node,
)

__all__ = ["Answer", "Datagram", "Received", "Solicitation", "Stack"]

_LIMITED_BROADCAST: Final = IPv4Address("255.255.255.255")
_UNSPECIFIED: Final = IPv6Address("::")
_ROUTER_SOLICITATION: Final = 133
_NEIGHBOUR_SOLICITATION: Final = 135
_NEIGHBOUR_ADVERTISEMENT: Final = 136
_SOURCE_LINK_LAYER: Final = 1
_TARGET_LINK_LAYER: Final = 2
_ROUTER: Final = 0x80000000  # flags of a neighbour advertisement, RFC 4861 4.4
_SOLICITED: Final = 0x40000000
_OVERRIDE: Final = 0x20000000
_ERRORS_PER_S: Final = 100.0  # as Linux limits them (RFC 4443 2.4 f wants a limit)
_ERRORS_AT_ONCE: Final = 50.0
_LONGEST_ERROR: Final = {4: 576, 6: 1280}  # packets: RFC 1812 4.3.2.3, RFC 4443 3.1


@dataclass(frozen=True, slots=True)
class Answer:
    what: Literal["arp", "neighbour", "echo", "unreachable"]
    frame: bytes


@dataclass(frozen=True, slots=True)
class Datagram:
    """UDP for a service. `to_many`: it was broadcast or multicast."""

    mac: bytes
    source: Address
    source_port: int
    destination: Address
    port: int
    to_many: bool
    payload: bytes


@dataclass(frozen=True, slots=True)
class Solicitation:
    """A router solicitation; `source` is `::` while its host has no address."""

    mac: bytes
    source: IPv6Address


Received = Answer | Datagram | Solicitation


class Stack:
    """`ports4`, `ports6`: UDP ports with a service. `groups`: multicast addresses of services. `router`: hosts are told
    that it is their default router, and give that up when a neighbour advertisement says otherwise (RFC 4861 7.2.5)."""

    def __init__(
        self,
        mac: bytes,
        addresses: Sequence[Interface],
        *,
        ports4: Collection[int] = (),
        ports6: Collection[int] = (),
        groups: Collection[IPv6Address] = (),
        router: bool = False,
    ) -> None:
        self.mac: Final = mac
        self._router: Final = router
        self.link_local: Final = link_local(mac)
        own6 = [one.ip for one in addresses if isinstance(one, IPv6Interface)]
        self._own4 = {one.ip for one in addresses if isinstance(one, IPv4Interface)}
        self._own6 = {self.link_local, *own6}
        self._broadcasts = {_LIMITED_BROADCAST} | {
            one.network.broadcast_address
            for one in addresses
            if isinstance(one, IPv4Interface) and one.network.prefixlen < 31
        }
        self._groups = {ALL_NODES, *groups, *map(solicited_node, self._own6)}
        self._ports = {4: frozenset(ports4), 6: frozenset(ports6)}
        self._errors = _ERRORS_AT_ONCE
        self._errors_at = 0.0

    def receive(self, frame: bytes, now: float) -> Received:
        """`now`: seconds of a clock that does not go back."""
        ethernet = parse_ethernet(frame)
        if ethernet.destination != self.mac and not ethernet.destination[0] & 1:
            raise WireError(Drop.NOT_FOR_US)
        if ethernet.source[0] & 1:
            raise WireError(Drop.BAD_SOURCE)
        if ethernet.ethertype == ARP:
            return self._arp(ethernet)
        if ethernet.ethertype not in (IPV4, IPV6):
            raise WireError(Drop.ETHERTYPE)
        packet = parse_ip(ethernet.ethertype, ethernet.payload)
        to_many = self._addressed(packet.destination) or ethernet.destination != self.mac
        if packet.protocol == UDP:
            return self._udp(ethernet, packet, to_many, now)
        if packet.protocol == ICMP4 and isinstance(packet.destination, IPv4Address):
            return self._icmp4(ethernet, packet, to_many)
        if packet.protocol == ICMP6 and isinstance(packet.destination, IPv6Address):
            return self._icmp6(ethernet, packet)
        raise WireError(Drop.PROTOCOL)

    def reply(self, request: Datagram, payload: bytes, *, source: Address | None = None) -> bytes:
        """The frame with the answer. `source`: ours, when the request went to many."""
        udp = Udp(request.port, request.source_port, payload)
        return self.udp_frame(request.mac, source or request.destination, request.source, udp)

    def udp_frame(self, mac: bytes, source: Address, destination: Address, udp: Udp) -> bytes:
        return self._frame(mac, source, destination, UDP, build_udp(source, destination, udp))

    def icmp6_frame(self, mac: bytes, destination: IPv6Address, icmp: Icmp, *, source: IPv6Address) -> bytes:
        """Neighbour discovery from a link-local address."""
        body = build_icmp(source, destination, icmp)
        return self._frame(mac, source, destination, ICMP6, body, hops=255)

    def _addressed(self, destination: Address) -> bool:
        """Whether many have this address; `WireError` when this station has not."""
        if destination in self._own4 or destination in self._own6:
            return False
        if destination in self._broadcasts or destination in self._groups:
            return True
        raise WireError(Drop.NOT_FOR_US)

    def _arp(self, ethernet: Ethernet) -> Answer:
        """RFC 826; also for probes, which have no sender's address (RFC 5227)."""
        arp = parse_arp(ethernet.payload)
        if arp.target not in self._own4:
            raise WireError(Drop.NOT_FOR_US)
        if arp.operation != 1:
            raise WireError(Drop.ARP)
        reply = build_arp(Arp(2, self.mac, arp.target, arp.sender_mac, arp.sender))
        return Answer("arp", build_ethernet(ethernet.source, self.mac, ARP, reply))

    def _udp(self, ethernet: Ethernet, packet: Packet, to_many: bool, now: float) -> Received:
        udp = parse_udp(packet)
        if udp.destination in self._ports[packet.source.version]:
            return Datagram(
                ethernet.source,
                packet.source,
                udp.source,
                packet.destination,
                udp.destination,
                to_many,
                udp.payload,
            )
        if to_many or packet.source.is_unspecified:  # RFC 1122 3.2.2, RFC 4443 2.4 e
            raise WireError(Drop.NO_PORT)
        if not self._may_send_error(now):
            raise WireError(Drop.ICMP_LIMIT)
        version = packet.source.version
        kind, code, protocol = (3, 3, ICMP4) if version == 4 else (1, 4, ICMP6)
        room = _LONGEST_ERROR[version] - (28 if version == 4 else 48)
        icmp = build_icmp(packet.destination, packet.source, Icmp(kind, code, bytes(4) + packet.data[:room]))
        frame = self._frame(ethernet.source, packet.destination, packet.source, protocol, icmp)
        return Answer("unreachable", frame)

    def _icmp4(self, ethernet: Ethernet, packet: Packet, to_many: bool) -> Answer:
        icmp = parse_icmp(packet)
        if icmp.type != 8 or to_many:  # RFC 1122 3.2.2.6 leaves broadcast to us
            raise WireError(Drop.ICMP_TYPE)
        return self._echo(ethernet, packet, packet.destination, ICMP4, Icmp(0, 0, icmp.body))

    def _icmp6(self, ethernet: Ethernet, packet: Packet) -> Received:
        icmp = parse_icmp(packet)
        source, destination = packet.source, packet.destination
        assert isinstance(source, IPv6Address), "its destination is"
        if icmp.type == 128 and source != _UNSPECIFIED:
            ours = self.link_local if destination.is_multicast else destination
            return self._echo(ethernet, packet, ours, ICMP6, Icmp(129, 0, icmp.body))
        if icmp.type in (_ROUTER_SOLICITATION, _NEIGHBOUR_SOLICITATION):
            if packet.hops != 255 or icmp.code != 0:  # RFC 4861 6.1.1, 7.1.1
                raise WireError(Drop.NDP)
            if icmp.type == _NEIGHBOUR_SOLICITATION:
                return self._neighbour(ethernet, packet, icmp.body)
            options = parse_ndp_options(icmp.body[4:])
            if len(icmp.body) < 4 or (source == _UNSPECIFIED and _has_link_layer(options)):
                raise WireError(Drop.NDP)
            return Solicitation(ethernet.source, source)
        raise WireError(Drop.ICMP_TYPE)

    def _neighbour(self, ethernet: Ethernet, packet: Packet, body: bytes) -> Answer:
        """RFC 4861 7.1.1 and 7.2.4; from `::` it is a duplicate address detection, answered to all."""
        source = packet.source
        assert isinstance(source, IPv6Address), "it is ICMPv6"
        options = parse_ndp_options(body[20:])
        if len(body) < 20:
            raise WireError(Drop.NDP)
        target = IPv6Address(body[4:20])
        probe = source == _UNSPECIFIED
        if probe and (_has_link_layer(options) or packet.destination != solicited_node(target)):
            raise WireError(Drop.NDP)
        if target not in self._own6:
            raise WireError(Drop.NOT_FOR_US)
        flags = _OVERRIDE | (0 if probe else _SOLICITED) | (_ROUTER if self._router else 0)
        told = flags.to_bytes(4) + target.packed + build_ndp_option(_TARGET_LINK_LAYER, self.mac)
        destination = ALL_NODES if probe else source
        mac = multicast_mac(ALL_NODES) if probe else ethernet.source
        icmp = build_icmp(target, destination, Icmp(_NEIGHBOUR_ADVERTISEMENT, 0, told))
        return Answer("neighbour", self._frame(mac, target, destination, ICMP6, icmp, hops=255))

    def _echo(self, ethernet: Ethernet, packet: Packet, ours: Address, protocol: int, reply: Icmp) -> Answer:
        if packet.source.is_unspecified:
            raise WireError(Drop.BAD_SOURCE)
        icmp = build_icmp(ours, packet.source, reply)
        return Answer("echo", self._frame(ethernet.source, ours, packet.source, protocol, icmp))

    def _frame(
        self,
        mac: bytes,
        source: Address,
        destination: Address,
        protocol: int,
        payload: bytes,
        *,
        hops: int = 64,
    ) -> bytes:
        packet = build_ip(source, destination, protocol, payload, hops=hops)
        return build_ethernet(mac, self.mac, IPV4 if source.version == 4 else IPV6, packet)

    def _may_send_error(self, now: float) -> bool:
        gained = (now - self._errors_at) * _ERRORS_PER_S
        self._errors, self._errors_at = min(_ERRORS_AT_ONCE, self._errors + gained), now
        if self._errors < 1:
            return False
        self._errors -= 1
        return True


def _has_link_layer(options: list[tuple[int, bytes]]) -> bool:
    return any(kind == _SOURCE_LINK_LAYER for kind, _ in options)
