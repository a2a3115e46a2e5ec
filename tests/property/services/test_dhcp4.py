"""Clients that do anything in any order, against a server and its naive twin, which keeps the whole history.

The twin only knows: the last one who was told of an address has it until its time is over, and an address is given to
who has or had it, else it is the one never given, else the one unused the longest.
"""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from vbackend.services.config import Dhcp4Config
from vbackend.services.dhcp4 import Dhcp4Server
from vbackend.services.dhcp4_message import Kind, Reply, Request
from vbackend.services.leases import Lease
from vbackend.services.reasons import Drop, WireError

OWN = IPv4Interface("10.0.0.1/24")
LEASE, OFFER, QUARANTINE = 600, 60, 300
CONFIG = Dhcp4Config(
    IPv4Address("10.0.0.100"), IPv4Address("10.0.0.103"), lease=LEASE, offer=OFFER, quarantine=QUARANTINE
)
POOL = [IPv4Address(f"10.0.0.{last}") for last in range(100, 104)]
NOBODY = -1


@dataclass
class Twin:
    """`history`: who was told of which address, and until when."""

    history: list[tuple[int, IPv4Address, float]] = field(default_factory=list)

    def last(self, address: IPv4Address) -> tuple[int, float] | None:
        return next(((who, until) for who, at, until in reversed(self.history) if at == address), None)

    def has(self, client: int) -> IPv4Address | None:
        """What the client has or had, unless another one got it since."""
        mine = next((at for who, at, _ in reversed(self.history) if who == client), None)
        told = None if mine is None else self.last(mine)
        return mine if told is not None and told[0] == client else None

    def free(self, address: IPv4Address, client: int, now: float) -> bool:
        told = self.last(address)
        return told is None or told[1] <= now or told[0] == client

    def choose(self, client: int, now: float) -> IPv4Address | None:
        mine = self.has(client)
        if mine is not None and self.free(mine, client, now):
            return mine
        free = [address for address in POOL if self.free(address, client, now)]
        return min(free, key=lambda one: ((self.last(one) or (0, float("-inf")))[1], one), default=None)

    def tell(self, client: int, address: IPv4Address, until: float, now: float) -> None:
        before = self.has(client)
        if before is not None and before != address:
            self.history.append((client, before, min(now, (self.last(before) or (0, now))[1])))
        self.history.append((client, address, until))


clients = st.integers(0, 5)
steps = st.one_of(
    st.tuples(st.just("discover"), clients),
    st.tuples(st.just("select"), clients, st.sampled_from(POOL)),
    st.tuples(st.just("join"), clients),  # discover, and select what is offered
    st.tuples(st.just("renew"), clients, st.sampled_from(POOL)),
    st.tuples(st.just("release"), clients, st.sampled_from(POOL)),
    st.tuples(st.just("decline"), clients, st.sampled_from(POOL)),
    st.tuples(st.just("wait"), st.sampled_from([1, OFFER, QUARANTINE, LEASE])),
    st.tuples(st.just("restart"), st.just(0)),
)


def mac(client: int) -> bytes:
    return b"\x52\x54\0\0\0" + bytes([client])


class Pair:
    def __init__(self) -> None:
        self.server = Dhcp4Server(CONFIG, OWN)
        self.twin = Twin()
        self.now = 1000.0

    def ask(self, request: Request, *, to_us: bool = False) -> Reply | Drop | None:
        try:
            return self.server.handle(request, self.now, to_us=to_us).reply
        except WireError as error:
            return error.reason

    def discover(self, client: int) -> IPv4Address | None:
        expected = self.twin.choose(client, self.now)
        found = self.ask(Request(Kind.DISCOVER, 1, mac(client)))
        if expected is None:
            assert found is Drop.DHCP_NO_ADDRESS
            return None
        assert isinstance(found, Reply)
        assert (found.kind, found.yiaddr) == (Kind.OFFER, expected)
        told = self.twin.last(expected)
        bound = any(
            one.address == expected and one.client == "01" + mac(client).hex() for one in self.active()
        )
        if not (bound and told is not None and told[0] == client):
            self.twin.tell(client, expected, self.now + OFFER, self.now)
        return expected

    def take(self, client: int, address: IPv4Address, request: Request) -> None:
        """`request` asks for the address: who may have it gets it."""
        found = self.ask(request, to_us=True)
        assert isinstance(found, Reply)
        assert found.kind is (Kind.ACK if self.twin.free(address, client, self.now) else Kind.NAK)
        if found.kind is Kind.ACK:
            self.twin.tell(client, address, self.now + LEASE, self.now)

    def end(self, client: int, address: IPv4Address, request: Request, until: float, *, bound: bool) -> None:
        """`request` gives the address back, if it is the client's. `bound`: an offer is not enough."""
        before, told = self.server.leases.at(address), self.twin.last(address)
        found = self.ask(request)
        if found is not None:
            assert found is Drop.DHCP_UNKNOWN_CLIENT
            return
        assert told is not None
        assert told[0] == client
        assert before is not None
        assert before.state in (("bound",) if bound else ("offered", "bound"))
        self.twin.history.append((NOBODY if request.kind is Kind.DECLINE else client, address, until))

    def active(self) -> list[Lease]:
        return list(self.server.leases.active(self.now))

    def check(self) -> None:
        leases = self.server.leases.all()
        assert len(leases) <= len(POOL)
        assert all(one.address in POOL for one in leases)
        holding = [one.client for one in leases if one.until > self.now and one.state != "declined"]
        assert len(holding) == len(set(holding)), "a client has one address"
        for one in leases:
            told = self.twin.last(one.address)
            assert told is not None
            assert told[1] == one.until


@given(st.lists(steps, max_size=40))
def test_server_and_twin_agree(script: list[tuple[Any, ...]]) -> None:
    pair = Pair()
    for word, who, *rest in script:
        address = rest[0] if rest else POOL[0]
        match word:
            case "discover":
                pair.discover(who)
            case "join":
                offered = pair.discover(who)
                if offered is not None:
                    asked = Request(Kind.REQUEST, 1, mac(who), requested=offered, server=OWN.ip)
                    pair.take(who, offered, asked)
            case "select":
                pair.take(who, address, Request(Kind.REQUEST, 1, mac(who), requested=address, server=OWN.ip))
            case "renew":
                pair.take(who, address, Request(Kind.REQUEST, 1, mac(who), ciaddr=address))
            case "release":
                asked = Request(Kind.RELEASE, 1, mac(who), ciaddr=address)
                lease = pair.server.leases.at(address)
                until = min(pair.now, lease.until if lease else pair.now)
                pair.end(who, address, asked, until, bound=True)
            case "decline":
                asked = Request(Kind.DECLINE, 1, mac(who), requested=address, server=OWN.ip)
                pair.end(who, address, asked, pair.now + QUARANTINE, bound=False)
            case "wait":
                pair.now += who
            case "restart":
                kept = pair.server.leases.to_json()
                pair.server = Dhcp4Server(CONFIG, OWN)
                pair.server.leases.load(kept, pair.now)
        pair.check()
