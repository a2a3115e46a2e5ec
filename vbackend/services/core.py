"""A station with its services: frames in, frames out, counted. Pure; `station.py` gives it frames and the time.

Times: `now` is of a clock that does not go back, `today` seconds since the epoch, which leases last in.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Final

from vbackend.ports.unitport import link_local
from vbackend.services.config import (
    Dhcp4Config,
    Interface,
    RaConfig,
    Services,
    check,
    ra_interval,
    server_interface,
)
from vbackend.services.dhcp4 import CLIENT_PORT, SERVER_PORT, Dhcp4Server, LeaseEvent, reply_address
from vbackend.services.dhcp4_message import build_reply, parse_request
from vbackend.services.dhcp6 import ALL_SERVERS, SERVER_PORT6, Dhcp6Server
from vbackend.services.dns import DNS_PORT, Forward, NameServer, Resolved
from vbackend.services.ra import ALL_ROUTERS, Advertiser, build_advertisement
from vbackend.services.reasons import Drop, WireError
from vbackend.services.snapshot import StationSnapshot
from vbackend.services.stack import Answer, Datagram, Solicitation, Stack
from vbackend.services.wire import ALL_NODES, BROADCAST, Address, Udp, multicast_mac

__all__ = ["Core", "Turn"]

_TO_ALL: Final = IPv4Address("255.255.255.255")


@dataclass(frozen=True, slots=True)
class Turn:
    """What one frame brought: a frame to send, a query to forward, something that happened to a lease."""

    frame: bytes | None = None
    forward: tuple[Datagram, Forward] | None = None
    event: LeaseEvent | None = None


class Core:
    """`may_forward`: raises `WireError` while too many queries wait. `random`: 0 to 1. ConfigError: as `check`."""

    def __init__(
        self,
        name: str,
        mac: bytes,
        addresses: Sequence[Interface],
        services: Services,
        *,
        random: Callable[[], float],
        now: float,
        may_forward: Callable[[], None] = lambda: None,
    ) -> None:
        check(services, addresses, name)
        self._name = name
        self._addresses = tuple(addresses)
        self._may_forward = may_forward
        self.dhcp4: Final = _dhcp4_server(services, addresses)
        self._ra = _told_by_ra(services, addresses)
        self._dhcp6: Dhcp6Server | None = None
        if self._ra is not None and self._ra.stateless:
            self._dhcp6 = Dhcp6Server(mac, self._ra.dns or (), self._ra.domains or ())
        self._advertiser = None if self._ra is None else Advertiser(ra_interval(self._ra), random, now)
        self._dns: NameServer | None = None
        if services.dns is not None:
            networks = [one.network for one in addresses]
            self._dns = NameServer(services.dns, self._lease_names, networks)
        dns_ports = {DNS_PORT} if self._dns else set()
        self._stack = Stack(
            mac,
            addresses,
            ports4=dns_ports | ({SERVER_PORT} if self.dhcp4 else set()),
            ports6=dns_ports | ({SERVER_PORT6} if self._dhcp6 else set()),
            groups=([ALL_ROUTERS] if self._ra else []) + ([ALL_SERVERS] if self._dhcp6 else []),
            router=self._ra is not None and self._ra.router is None and self._ra.lifetime > 0,
        )
        self._received = self._sent = self._lost = self._advertisements = 0
        self._handled: Counter[str] = Counter()
        self._drops: Counter[str] = Counter()
        self._dns_answers: Counter[str] = Counter()

    def receive(self, frame: bytes, now: float, today: float) -> Turn:
        self._received += 1
        try:
            what, turn = self._handle(frame, now, today)
        except WireError as error:
            self._drops[error.reason] += 1
            return Turn()
        self._handled[what] += 1
        return turn

    def forwarded(self, request: Datagram, forward: Forward, answer: bytes | None) -> bytes:
        """The frame with another name server's answer, or, when there is none, with our regrets."""
        assert self._dns is not None, "it was asked"
        if answer is None:
            return self._resolved(request, self._dns.failed(forward))
        self._dns_answers["forwarded"] += 1
        return self._stack.reply(request, answer)

    @property
    def advertisement_due(self) -> float | None:
        """When `advertisement` is to be called; None: never."""
        return None if self._advertiser is None else self._advertiser.due

    def advertisement(self, now: float, *, final: bool = False) -> bytes:
        """To all. `final`: this router is no more."""
        assert self._ra is not None, "advertisement_due is None"
        assert self._advertiser is not None, "as above"
        self._advertiser.sent(now)
        self._advertisements += 1
        router = self._ra.router or self._stack.mac
        icmp = build_advertisement(self._ra, router, final=final)
        return self._stack.icmp6_frame(multicast_mac(ALL_NODES), ALL_NODES, icmp, source=link_local(router))

    def sent(self, taken: bool) -> None:
        """What became of a frame that was to be sent."""
        if taken:
            self._sent += 1
        else:
            self._lost += 1

    def snapshot(self, waiting: int = 0) -> StationSnapshot:
        there = {"dhcp": self.dhcp4, "ra": self._ra, "dhcp6": self._dhcp6, "dns": self._dns}
        return StationSnapshot(
            name=self._name,
            mac=self._stack.mac.hex(":"),
            addresses=(*map(str, self._addresses), f"{self._stack.link_local}/64"),
            services=tuple(name for name, service in there.items() if service is not None),
            received=self._received,
            handled=dict(self._handled),
            drops=dict(self._drops),
            sent=self._sent,
            lost=self._lost,
            advertisements=self._advertisements,
            dns_answers=dict(self._dns_answers),
            dns_waiting=waiting,
            leases=() if self.dhcp4 is None else self.dhcp4.leases.all(),
        )

    def _handle(self, frame: bytes, now: float, today: float) -> tuple[str, Turn]:
        match self._stack.receive(frame, now):
            case Answer() as answer:
                return answer.what, Turn(answer.frame)
            case Solicitation() as solicitation:
                return "solicitation", self._solicited(solicitation, now)
            case Datagram(port=port) as request:
                if port == SERVER_PORT:
                    return self._dhcp4_turn(request, today)
                if port == SERVER_PORT6:
                    return "dhcp6", self._dhcp6_turn(request)
                return "dns", self._dns_turn(request, today)

    def _solicited(self, solicitation: Solicitation, now: float) -> Turn:
        if self._ra is None or self._advertiser is None:
            raise WireError(Drop.ICMP_TYPE)
        if not self._advertiser.solicited(solicitation.source, now):
            return Turn()
        router = self._ra.router or self._stack.mac
        icmp = build_advertisement(self._ra, router)
        frame = self._stack.icmp6_frame(
            solicitation.mac, solicitation.source, icmp, source=link_local(router)
        )
        return Turn(frame)

    def _dhcp4_turn(self, request: Datagram, today: float) -> tuple[str, Turn]:
        assert self.dhcp4 is not None, "its port is open"
        message = parse_request(request.payload)
        what = f"dhcp-{message.kind.name.lower()}"
        outcome = self.dhcp4.handle(message, today, to_us=not request.to_many)
        if outcome.reply is None:
            return what, Turn(event=outcome.event)
        udp = Udp(SERVER_PORT, CLIENT_PORT, build_reply(outcome.reply))
        address = reply_address(outcome.reply)
        mac = BROADCAST if address is None else message.mac
        frame = self._stack.udp_frame(mac, self.dhcp4.own, address or _TO_ALL, udp)
        return what, Turn(frame, event=outcome.event)

    def _dhcp6_turn(self, request: Datagram) -> Turn:
        assert self._dhcp6 is not None, "its port is open"
        if request.source.is_unspecified:  # RFC 4291 2.5.2: nothing is sent there
            raise WireError(Drop.BAD_SOURCE)
        reply = self._dhcp6.handle(request.payload, to_many=request.to_many)
        return Turn(self._stack.reply(request, reply, source=self._stack.link_local))

    def _dns_turn(self, request: Datagram, today: float) -> Turn:
        assert self._dns is not None, "its port is open"
        if request.to_many or request.source.is_unspecified:
            raise WireError(Drop.NOT_FOR_US)
        result = self._dns.handle(request.payload, today)
        if isinstance(result, Resolved):
            return Turn(self._resolved(request, result))
        self._may_forward()
        return Turn(forward=(request, result))

    def _resolved(self, request: Datagram, result: Resolved) -> bytes:
        self._dns_answers[result.rcode] += 1
        return self._stack.reply(request, result.wire)

    def _lease_names(self, today: float) -> list[tuple[str, Address]]:
        if self.dhcp4 is None:
            return []
        return [(one.hostname, one.address) for one in self.dhcp4.leases.active(today) if one.hostname]


def _dhcp4_server(services: Services, addresses: Sequence[Interface]) -> Dhcp4Server | None:
    config, dns = services.dhcp4, services.dns
    if config is None:
        return None
    interface = server_interface(config, addresses)
    assert interface is not None, "`check` has seen it"
    own = () if dns is None else (interface.ip,)
    domain = config.domain or (None if dns is None else dns.domain)
    told: Dhcp4Config = replace(config, dns=own if config.dns is None else config.dns, domain=domain)
    kept = [one.ip for one in addresses if isinstance(one, IPv4Interface)]
    return Dhcp4Server(told, interface, kept)


def _told_by_ra(services: Services, addresses: Sequence[Interface]) -> RaConfig | None:
    config, dns = services.ra, services.dns
    if config is None:
        return None
    own = [one for one in addresses if isinstance(one, IPv6Interface)]
    prefixes = tuple(dict.fromkeys(one.network for one in own if not one.is_link_local))  # RFC 4861 4.6.2
    servers: tuple[IPv6Address, ...] = tuple(one.ip for one in own[:1]) if dns is not None else ()
    return replace(
        config,
        prefixes=prefixes if config.prefixes is None else config.prefixes,
        dns=servers if config.dns is None else config.dns,
        domains=(() if dns is None else (dns.domain,)) if config.domains is None else config.domains,
    )
