"""A DHCP server for one segment (RFC 2131). Pure: the time and a request in, a reply and what became of leases out.

It is the only server of its addresses, and says no (NAK) where a client asks for one of them that is another's, or
for one of another network. It stays silent where RFC 2131 4.3.2 wants that of a server without a record.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Final, Literal

from vbackend.services.config import Dhcp4Config
from vbackend.services.dhcp4_message import UNSPECIFIED, Kind, Option, Reply, Request, encode_routes
from vbackend.services.leases import Lease, Leases
from vbackend.services.reasons import Drop, WireError

__all__ = ["CLIENT_PORT", "SERVER_PORT", "Dhcp4Server", "LeaseEvent", "Outcome", "reply_address"]

SERVER_PORT: Final = 67
CLIENT_PORT: Final = 68
_SHORTEST_LEASE_S: Final = 60  # however little a client asks for
_DEFAULT_ROUTE: Final = IPv4Network("0.0.0.0/0")


@dataclass(frozen=True, slots=True)
class LeaseEvent:
    name: Literal["given", "renewed", "released", "declined"]
    lease: Lease


@dataclass(frozen=True, slots=True)
class Outcome:
    reply: Reply | None = None
    event: LeaseEvent | None = None


def reply_address(reply: Reply) -> IPv4Address | None:
    """Where the reply goes (RFC 2131 4.1): an address at the client's MAC address, or None: to all."""
    request = reply.request
    if reply.kind is Kind.NAK:
        return None
    if request.ciaddr != UNSPECIFIED:
        return request.ciaddr
    return None if request.broadcast else reply.yiaddr


class Dhcp4Server:
    """`interface`: the server's address and the network it serves. `config.dns` and `.domain` as clients are told.
    `kept`: addresses that are not given away, besides its own and those of router and name servers, which only get
    their own by a reservation."""

    def __init__(
        self, config: Dhcp4Config, interface: IPv4Interface, kept: Collection[IPv4Address] = ()
    ) -> None:
        self._config = config
        self.own: Final = interface.ip
        self._network = interface.network
        told = {*(config.dns or ()), *(() if config.router is None else (config.router,))}
        reserved = {one.address for one in config.reservations}
        self.leases: Final = Leases(config, {interface.ip, *kept, *(told - reserved)})

    def handle(self, request: Request, now: float, *, to_us: bool) -> Outcome:
        """`now`: seconds since the epoch. `to_us`: it was not broadcast. `WireError`: no answer, and why."""
        if request.giaddr != UNSPECIFIED:
            raise WireError(Drop.DHCP_RELAYED)
        match request.kind:
            case Kind.DISCOVER:
                return self._discover(request, now)
            case Kind.REQUEST:
                return self._request(request, now, to_us)
            case Kind.DECLINE:
                return self._decline(request, now)
            case Kind.RELEASE:
                return self._release(request, now)
            case Kind.INFORM:
                return self._inform(request)
            case _:
                raise WireError(Drop.DHCP_TYPE)

    def _discover(self, request: Request, now: float) -> Outcome:
        client, mac = _names(request)
        address = self.leases.choose(client, mac, request.hostname, request.requested, now)
        if address is None:
            raise WireError(Drop.DHCP_NO_ADDRESS)
        has = self.leases.at(address)
        if has is None or has.client != client or has.state != "bound" or has.until <= now:
            self.leases.put(self._lease(request, address, "offered", now + self._config.offer), now)
        options = self._timed(request) + self._told(request)
        return Outcome(self._reply(Kind.OFFER, request, options, yiaddr=address))

    def _request(self, request: Request, now: float, to_us: bool) -> Outcome:
        """RFC 2131 4.3.2: which of the client's states it is in shows from what it sends."""
        client, mac = _names(request)
        known = self.leases.of_client(client)
        if request.server is not None and request.server != self.own:
            if known is not None and known.state == "offered":
                self.leases.end(known.address, now)
            raise WireError(Drop.DHCP_OTHER_SERVER)
        renews = request.ciaddr != UNSPECIFIED
        selects = request.server is not None and not renews
        address = request.ciaddr if renews else request.requested
        if address is None:
            raise WireError(Drop.DHCP_FORMAT, "asks for no address")
        if address not in self._network:
            return self._nak(request)
        reserved = self.leases.reserved(mac, request.hostname)
        moves = (
            reserved is not None
            and reserved != address
            and self.leases.may_have(client, mac, request.hostname, reserved, now)
        )
        if moves or not self.leases.may_have(client, mac, request.hostname, address, now):
            if known is None and not (selects or to_us or self.leases.serves(address)):
                raise WireError(Drop.DHCP_UNKNOWN_CLIENT)
            return self._nak(request)
        if not selects and not renews and address != reserved:  # it has been restarted
            if known is None:
                raise WireError(Drop.DHCP_UNKNOWN_CLIENT)
            if known.address != address:
                return self._nak(request)
        return self._acknowledge(request, address, now)

    def _acknowledge(self, request: Request, address: IPv4Address, now: float) -> Outcome:
        had = self.leases.at(address)
        lease = self._lease(request, address, "bound", now + self._duration(request))
        renewed = had is not None and had.client == lease.client and had.state == "bound" and had.until > now
        self.leases.put(lease, now)
        options = self._timed(request) + self._told(request)
        reply = self._reply(Kind.ACK, request, options, yiaddr=address, ciaddr=request.ciaddr)
        return Outcome(reply, LeaseEvent("renewed" if renewed else "given", lease))

    def _decline(self, request: Request, now: float) -> Outcome:
        """Another station has the address: it rests, and nobody else is told of it."""
        client, _ = _names(request)
        lease = None if request.requested is None else self.leases.at(request.requested)
        if lease is None or lease.client != client or lease.state not in ("offered", "bound"):
            raise WireError(Drop.DHCP_UNKNOWN_CLIENT)
        if request.server != self.own:
            raise WireError(Drop.DHCP_OTHER_SERVER)
        declined = lease.model_copy(update={"state": "declined", "until": now + self._config.quarantine})
        self.leases.put(declined, now)
        return Outcome(event=LeaseEvent("declined", declined))

    def _release(self, request: Request, now: float) -> Outcome:
        client, _ = _names(request)
        lease = self.leases.at(request.ciaddr)
        if lease is None or lease.client != client or lease.state != "bound":
            raise WireError(Drop.DHCP_UNKNOWN_CLIENT)
        self.leases.end(lease.address, now)
        released = self.leases.at(lease.address)
        assert released is not None, "it was ended, not forgotten"
        return Outcome(event=LeaseEvent("released", released))

    def _inform(self, request: Request) -> Outcome:
        """RFC 2131 4.3.5: no address and no times."""
        if request.ciaddr not in self._network:
            raise WireError(Drop.DHCP_FORMAT, "informs of no address of this network")
        return Outcome(self._reply(Kind.ACK, request, self._told(request), ciaddr=request.ciaddr))

    def _nak(self, request: Request) -> Outcome:
        return Outcome(self._reply(Kind.NAK, replace(request, broadcast=True), []))

    def _reply(
        self,
        kind: Kind,
        request: Request,
        options: list[tuple[Option, bytes]],
        *,
        yiaddr: IPv4Address = UNSPECIFIED,
        ciaddr: IPv4Address = UNSPECIFIED,
    ) -> Reply:
        always = [(Option.SERVER, self.own.packed)]
        if request.client_id is not None:  # RFC 6842
            always.append((Option.CLIENT, request.client_id))
        return Reply(kind, request, yiaddr, ciaddr, (*always, *options))

    def _duration(self, request: Request) -> int:
        longest = self._config.lease
        wished = longest if request.lease is None else request.lease
        return min(max(wished, _SHORTEST_LEASE_S), longest)

    def _timed(self, request: Request) -> list[tuple[Option, bytes]]:
        seconds = self._duration(request)
        return [
            (Option.LEASE, seconds.to_bytes(4)),
            (Option.T1, (seconds // 2).to_bytes(4)),
            (Option.T2, (seconds * 7 // 8).to_bytes(4)),
        ]

    def _told(self, request: Request) -> list[tuple[Option, bytes]]:
        """What the client wants of what there is, in its order, the mask always first (RFC 2132 3.3)."""
        there = dict(self._parameters())
        wanted = dict.fromkeys((Option.MASK, *(there if request.wanted is None else request.wanted)))
        return [(Option(code), there[Option(code)]) for code in wanted if code in there]

    def _parameters(self) -> Iterator[tuple[Option, bytes]]:
        config = self._config
        yield Option.MASK, self._network.netmask.packed
        yield Option.BROADCAST, self._network.broadcast_address.packed
        if config.routes:  # a client that takes these takes no other (RFC 3442), so the router is one of them
            default = () if config.router is None else ((_DEFAULT_ROUTE, config.router),)
            yield Option.ROUTES, encode_routes((*config.routes, *default))
        if config.router is not None:
            yield Option.ROUTER, config.router.packed
        if config.dns:
            yield Option.DNS, b"".join(address.packed for address in config.dns)
        if config.domain:
            yield Option.DOMAIN, config.domain.encode("ascii")
        if config.mtu is not None:
            yield Option.MTU, config.mtu.to_bytes(2)

    def _lease(
        self, request: Request, address: IPv4Address, state: Literal["offered", "bound"], until: float
    ) -> Lease:
        client, mac = _names(request)
        had = self.leases.of_client(client)
        sent = request.hostname or (had.hostname if had is not None else None)
        hostname = self._config.names.get(request.mac, sent)
        return Lease(address=address, client=client, mac=mac, hostname=hostname, state=state, until=until)


def _names(request: Request) -> tuple[str, str]:
    return request.client.hex(), request.mac.hex(":")
