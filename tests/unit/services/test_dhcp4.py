"""RFC 2131 clause by clause: what a client in each state sends, and what it gets."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from vbackend.services.config import Dhcp4Config, Reservation
from vbackend.services.dhcp4 import Dhcp4Server, Outcome, reply_address
from vbackend.services.dhcp4_message import UNSPECIFIED, Kind, Option, Reply, Request
from vbackend.services.reasons import Drop, WireError

OWN = IPv4Interface("10.0.0.1/24")
CONFIG = Dhcp4Config(
    IPv4Address("10.0.0.100"),
    IPv4Address("10.0.0.101"),
    router=IPv4Address("10.0.0.254"),
    dns=(OWN.ip,),
    domain="lab",
    mtu=1400,
)
A, B, C = (bytes.fromhex(f"52540000000{n}") for n in (1, 2, 3))


def at(last: int) -> IPv4Address:
    return IPv4Address(f"10.0.0.{last}")


def discover(mac: bytes = A) -> Request:
    return Request(Kind.DISCOVER, 1, mac)


def selecting(last: int, mac: bytes = A, server: IPv4Address = OWN.ip) -> Request:
    return Request(Kind.REQUEST, 1, mac, requested=at(last), server=server)


def rebooting(last: int, mac: bytes = A) -> Request:
    return Request(Kind.REQUEST, 1, mac, requested=at(last))


def renewing(last: int, mac: bytes = A) -> Request:
    return Request(Kind.REQUEST, 1, mac, ciaddr=at(last))


def server(config: Dhcp4Config = CONFIG, bound: tuple[bytes, ...] = ()) -> Dhcp4Server:
    """With clients that got their addresses, in order, at time 0."""
    made = Dhcp4Server(config, OWN)
    for mac in bound:
        offer = reply(made.handle(discover(mac), 0, to_us=False))
        made.handle(selecting(int(offer.yiaddr) & 0xFF, mac), 0, to_us=False)
    return made


def reply(outcome: Outcome) -> Reply:
    assert outcome.reply is not None
    return outcome.reply


def option(found: Reply, wanted: Option) -> bytes | None:
    return dict(found.options).get(wanted)


def test_discover_offer_request_acknowledge() -> None:
    made = server()
    offer = reply(made.handle(discover(), 0, to_us=False))
    assert (offer.kind, offer.yiaddr, offer.ciaddr) == (Kind.OFFER, at(100), UNSPECIFIED)
    outcome = made.handle(replace(selecting(100), hostname="h1"), 1, to_us=False)
    found = reply(outcome)
    assert (found.kind, found.yiaddr) == (Kind.ACK, at(100))
    assert dict(found.options) == {
        Option.SERVER: OWN.ip.packed,
        Option.LEASE: (3600).to_bytes(4),
        Option.T1: (1800).to_bytes(4),
        Option.T2: (3150).to_bytes(4),
        Option.MASK: bytes([255, 255, 255, 0]),
        Option.BROADCAST: at(255).packed,
        Option.ROUTER: at(254).packed,
        Option.DNS: OWN.ip.packed,
        Option.DOMAIN: b"lab",
        Option.MTU: (1400).to_bytes(2),
    }
    assert outcome.event is not None
    assert (outcome.event.name, outcome.event.lease.hostname, outcome.event.lease.until) == (
        "given",
        "h1",
        3601,
    )


def test_only_what_is_wanted_in_that_order_behind_the_mask() -> None:
    wanted = bytes([15, 3, 99, 15, 1, 119])
    found = reply(server().handle(replace(discover(), wanted=wanted), 0, to_us=False))
    told = [code for code, _ in found.options]
    assert told[:4] == [Option.SERVER, Option.LEASE, Option.T1, Option.T2]
    assert told[4:] == [Option.MASK, Option.DOMAIN, Option.ROUTER]


def test_routes_include_the_default_one() -> None:
    """RFC 3442: who takes option 121 takes no option 3."""
    config = replace(CONFIG, routes=((IPv4Network("10.1.0.0/16"), at(9)),))
    found = reply(server(config).handle(discover(), 0, to_us=False))
    assert option(found, Option.ROUTES) == bytes.fromhex("100a010a000009" + "000a0000fe")


def test_client_identifier_is_the_client_and_comes_back() -> None:
    """RFC 2131 4.2, RFC 6842."""
    made = server()
    one = reply(made.handle(replace(discover(), client_id=b"\xff1"), 0, to_us=False))
    two = reply(made.handle(replace(discover(), client_id=b"\xff2"), 0, to_us=False))
    assert (one.yiaddr, two.yiaddr) == (at(100), at(101))
    assert option(two, Option.CLIENT) == b"\xff2"


@pytest.mark.parametrize(("wished", "given"), [(None, 3600), (600, 600), (1, 60), (0xFFFFFFFF, 3600)])
def test_lease_time(wished: int | None, given: int) -> None:
    found = reply(server().handle(replace(discover(), lease=wished), 0, to_us=False))
    assert option(found, Option.LEASE) == given.to_bytes(4)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (discover(), at(100)),
        (replace(discover(), broadcast=True), None),
        (selecting(100), at(100)),
        (selecting(7), None),  # refused: RFC 2131 4.1, always to all
        (replace(renewing(0), ciaddr=IPv4Address("192.168.1.5")), None),  # refused too
        (replace(renewing(100), broadcast=True), at(100)),
    ],
)
def test_where_replies_go(request_: Request, expected: IPv4Address | None) -> None:
    assert reply_address(reply(server().handle(request_, 0, to_us=False))) == expected


def test_addresses_of_servers_are_not_given_away() -> None:
    config = replace(CONFIG, first=at(1), last=at(6), router=at(2), dns=(at(3), at(4)))
    made = Dhcp4Server(config, OWN, [at(5)])
    assert reply(made.handle(discover(), 0, to_us=False)).yiaddr == at(6)


def test_a_router_or_name_server_may_be_a_client_with_a_reservation() -> None:
    config = replace(CONFIG, router=at(50), dns=(at(101),))
    config = replace(config, reservations=(Reservation(at(50), mac=A), Reservation(at(101), mac=B)))
    made = server(config, bound=(A, B))
    assert [one.address for one in made.leases.all()] == [at(50), at(101)]
    assert reply(made.handle(selecting(50, C), 0, to_us=False)).kind is Kind.NAK


def test_offered_addresses_are_kept_for_a_while() -> None:
    made = server()
    made.handle(discover(A), 0, to_us=False)
    made.handle(discover(B), 0, to_us=False)
    with pytest.raises(WireError) as error:
        made.handle(discover(C), 59, to_us=False)
    assert error.value.reason is Drop.DHCP_NO_ADDRESS
    assert reply(made.handle(discover(C), 60, to_us=False)).yiaddr == at(100)


def test_a_discover_does_not_end_a_lease() -> None:
    made = server(bound=(A,))
    before = made.leases.all()
    assert reply(made.handle(discover(A), 100, to_us=False)).yiaddr == at(100)
    assert made.leases.all() == before


def test_client_that_chose_another_server_frees_our_offer() -> None:
    made = server()
    made.handle(discover(A), 0, to_us=False)
    with pytest.raises(WireError) as error:
        made.handle(selecting(100, server=at(2)), 1, to_us=False)
    assert error.value.reason is Drop.DHCP_OTHER_SERVER
    assert [one.state for one in made.leases.all()] == ["released"]


# RFC 2131 4.3.2 and table 4. Clients A and B have 100 and 101, C has nothing, at time 10 or when A's is over.
@pytest.mark.parametrize(
    ("request_", "to_us", "expected"),
    [
        (selecting(100, A), False, Kind.ACK),
        (selecting(101, A), False, Kind.NAK),
        (selecting(100, C), False, Kind.NAK),
        (selecting(7, C), False, Kind.NAK),
        (rebooting(100, A), False, Kind.ACK),
        (rebooting(101, A), False, Kind.NAK),
        (rebooting(7, A), False, Kind.NAK),
        (replace(rebooting(0, C), requested=IPv4Address("192.168.1.5")), False, Kind.NAK),
        (rebooting(100, C), False, Kind.NAK),
        (rebooting(7, C), False, Drop.DHCP_UNKNOWN_CLIENT),
        (renewing(100, A), True, Kind.ACK),
        (renewing(100, A), False, Kind.ACK),  # rebinding
        (renewing(100, C), True, Kind.NAK),
        (renewing(7, C), True, Kind.NAK),
        (renewing(7, C), False, Drop.DHCP_UNKNOWN_CLIENT),
        (replace(renewing(0, A), ciaddr=IPv4Address("192.168.1.5")), False, Kind.NAK),
        (Request(Kind.REQUEST, 1, A), False, Drop.DHCP_FORMAT),
        (Request(Kind.REQUEST, 1, A, server=OWN.ip), False, Drop.DHCP_FORMAT),
    ],
)
def test_requests(request_: Request, to_us: bool, expected: Kind | Drop) -> None:
    made = server(bound=(A, B))
    try:
        found: Kind | Drop = reply(made.handle(request_, 10, to_us=to_us)).kind
    except WireError as error:
        found = error.reason
    assert found is expected


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (rebooting(100, C), Drop.DHCP_UNKNOWN_CLIENT),
        (renewing(100, C), Kind.ACK),
        (selecting(100, C), Kind.ACK),
    ],
)
def test_server_that_forgot_its_leases(request_: Request, expected: Kind | Drop) -> None:
    """Whoever uses an address that is free keeps it; who only remembers one is not answered."""
    try:
        found: Kind | Drop = reply(server().handle(request_, 10, to_us=False)).kind
    except WireError as error:
        found = error.reason
    assert found is expected


def test_renewed_lease_keeps_its_name() -> None:
    made = server()
    made.handle(replace(selecting(100), hostname="h1"), 0, to_us=False)
    event = made.handle(renewing(100), 1000, to_us=True).event
    assert event is not None
    assert (event.name, event.lease.hostname, event.lease.until) == ("renewed", "h1", 4600)
    again = made.handle(renewing(100), 9000, to_us=True).event
    assert again is not None
    assert again.name == "given", "it was over"


@pytest.mark.parametrize(("mac", "name"), [(A, "vm1"), (B, "told")])
def test_name_that_is_known_goes_before_the_one_that_is_sent(mac: bytes, name: str) -> None:
    made = server(replace(CONFIG, names={A: "vm1"}))
    event = made.handle(replace(selecting(100, mac), hostname="told"), 0, to_us=False).event
    assert event is not None
    assert event.lease.hostname == name


def test_reserved_address_moves_a_client_at_its_next_renewal() -> None:
    made = server(replace(CONFIG, reservations=(Reservation(at(50), mac=A),)))
    assert reply(made.handle(renewing(100, A), 0, to_us=True)).kind is Kind.NAK
    assert reply(made.handle(discover(A), 0, to_us=False)).yiaddr == at(50)
    assert reply(made.handle(rebooting(50, A), 0, to_us=False)).kind is Kind.ACK


def test_reservation_by_name_outlives_requests_without_the_name() -> None:
    """A client need not say its name again when it renews, rebinds or restarts."""
    made = server(replace(CONFIG, reservations=(Reservation(at(50), hostname="web"),)))
    assert reply(made.handle(replace(discover(), hostname="web"), 0, to_us=False)).yiaddr == at(50)
    assert reply(made.handle(replace(selecting(50), hostname="web"), 0, to_us=False)).kind is Kind.ACK
    for request_, to_us in ((renewing(50), True), (renewing(50), False), (rebooting(50), False)):
        assert reply(made.handle(request_, 10, to_us=to_us)).kind is Kind.ACK
    assert reply(made.handle(discover(), 10, to_us=False)).yiaddr == at(50)
    for request_ in (renewing(50, B), selecting(50, B)):
        assert reply(made.handle(request_, 10, to_us=False)).kind is Kind.NAK
    assert reply(made.handle(renewing(50), 3700, to_us=True)).kind is Kind.NAK, "it is over"


def test_decline() -> None:
    made = server(bound=(A,))
    decline = Request(Kind.DECLINE, 1, A, requested=at(100), server=OWN.ip)
    outcome = made.handle(decline, 10, to_us=False)
    assert outcome.reply is None
    assert outcome.event is not None
    assert outcome.event.name == "declined"
    assert reply(made.handle(discover(A), 10, to_us=False)).yiaddr == at(101)
    assert reply(made.handle(discover(B), 609, to_us=False)).yiaddr == at(101), "A did not take it"
    with pytest.raises(WireError, match="dhcp-unknown-client"):
        made.handle(decline, 20, to_us=False)
    with pytest.raises(WireError, match="dhcp-no-address"):
        made.handle(discover(C), 609, to_us=False)
    assert reply(made.handle(discover(C), 610, to_us=False)).yiaddr == at(100)


def test_decline_of_another_server() -> None:
    with pytest.raises(WireError, match="dhcp-other-server"):
        server(bound=(A,)).handle(
            Request(Kind.DECLINE, 1, A, requested=at(100), server=at(2)), 10, to_us=False
        )


def test_release() -> None:
    made = server(bound=(A, B))
    outcome = made.handle(Request(Kind.RELEASE, 1, A, ciaddr=at(100), server=OWN.ip), 10, to_us=True)
    assert outcome.reply is None
    assert outcome.event is not None
    assert (outcome.event.name, outcome.event.lease.until) == ("released", 10)
    assert reply(made.handle(discover(C), 11, to_us=False)).yiaddr == at(100)


@pytest.mark.parametrize(
    "request_",
    [
        Request(Kind.DECLINE, 1, A, server=OWN.ip),
        Request(Kind.DECLINE, 1, A, requested=at(101), server=OWN.ip),
        Request(Kind.RELEASE, 1, A, ciaddr=at(101)),
        Request(Kind.RELEASE, 1, A, ciaddr=at(7)),
        Request(Kind.RELEASE, 1, C, ciaddr=at(100)),
    ],
)
def test_nobody_ends_anothers_lease(request_: Request) -> None:
    made = server(bound=(A, B))
    before = made.leases.all()
    with pytest.raises(WireError) as error:
        made.handle(request_, 10, to_us=True)
    assert error.value.reason is Drop.DHCP_UNKNOWN_CLIENT
    assert made.leases.all() == before


def test_inform() -> None:
    """RFC 2131 4.3.5: neither an address nor times."""
    found = reply(server().handle(Request(Kind.INFORM, 1, A, ciaddr=at(7)), 0, to_us=True))
    assert (found.kind, found.yiaddr, reply_address(found)) == (Kind.ACK, UNSPECIFIED, at(7))
    assert option(found, Option.LEASE) is None
    assert option(found, Option.DNS) == OWN.ip.packed
    with pytest.raises(WireError):
        server().handle(Request(Kind.INFORM, 1, A), 0, to_us=True)


def test_relayed_requests_are_another_segments() -> None:
    with pytest.raises(WireError) as error:
        server().handle(replace(discover(), giaddr=at(2)), 0, to_us=True)
    assert error.value.reason is Drop.DHCP_RELAYED
    with pytest.raises(WireError) as error:
        server().handle(Request(Kind.OFFER, 1, A), 0, to_us=True)
    assert error.value.reason is Drop.DHCP_TYPE
