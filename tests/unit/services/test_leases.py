"""Bindings: who gets what, what ends, and what comes back from JSON."""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from vbackend.errors import ConfigError
from vbackend.services.config import Dhcp4Config, Reservation
from vbackend.services.leases import Lease, Leases, State

OWN = IPv4Address("10.0.0.1")
KEPT = {OWN}
M1, M2 = "52:54:00:00:00:01", "52:54:00:00:00:02"
CONFIG = Dhcp4Config(IPv4Address("10.0.0.1"), IPv4Address("10.0.0.4"))  # three, with the server's own inside
RESERVED = replace(
    CONFIG,
    reservations=(
        Reservation(IPv4Address("10.0.0.50"), mac=bytes.fromhex("525400000001")),
        Reservation(IPv4Address("10.0.0.3"), hostname="Printer"),
    ),
)


def at(last: int) -> IPv4Address:
    return IPv4Address(f"10.0.0.{last}")


def lease(last: int, client: str, *, mac: str = M1, state: State = "bound", until: float = 100.0) -> Lease:
    return Lease(address=at(last), client=client, mac=mac, hostname=None, state=state, until=until)


def test_addresses_are_given_in_order_and_then_those_unused_the_longest() -> None:
    leases = Leases(CONFIG, KEPT)
    for last, client, until in ((2, "a", 30.0), (3, "b", 10.0), (4, "c", 20.0)):
        assert leases.choose(client, M1, None, None, 0) == at(last)
        leases.put(lease(last, client, until=until), 0)
    assert leases.choose("d", M1, None, None, 9) is None
    assert leases.choose("d", M1, None, None, 10) == at(3)
    assert leases.choose("d", M1, None, None, 40) == at(3)
    assert leases.choose("c", M1, None, None, 40) == at(4), "its own"


def test_wishes_come_after_what_the_client_had() -> None:
    leases = Leases(CONFIG, KEPT)
    assert leases.choose("a", M1, None, at(4), 0) == at(4)
    assert leases.choose("a", M1, None, OWN, 0) == at(2)
    assert leases.choose("a", M1, None, at(99), 0) == at(2)
    leases.put(lease(3, "a"), 0)
    assert leases.choose("a", M1, None, at(4), 0) == at(3)
    assert leases.choose("b", M1, None, at(3), 0) == at(2)


def test_a_client_has_one_binding() -> None:
    leases = Leases(CONFIG, KEPT)
    leases.put(lease(2, "a"), 0)
    leases.put(lease(3, "a"), 5)
    assert [(one.address, one.state, one.until) for one in leases.all()] == [
        (at(2), "released", 5),
        (at(3), "bound", 100),
    ]
    assert [one.address for one in leases.active(6)] == [at(3)]
    assert leases.of_client("a") == leases.at(at(3))


def test_an_address_that_another_client_got_is_no_longer_known_as_the_first_ones() -> None:
    leases = Leases(CONFIG, KEPT)
    leases.put(lease(2, "a", until=1), 0)
    leases.put(lease(2, "b"), 5)
    assert leases.of_client("a") is None
    assert leases.of_client("b") == leases.at(at(2))


def test_declined_addresses_are_nobodys_until_they_have_rested() -> None:
    leases = Leases(CONFIG, KEPT)
    leases.put(lease(2, "a", state="declined", until=50), 0)
    assert leases.of_client("a") is None
    assert not leases.may_have("a", M1, None, at(2), 49)
    assert leases.may_have("a", M1, None, at(2), 50)
    assert list(leases.active(10)) == []


def test_reservations() -> None:
    leases = Leases(RESERVED, KEPT)
    assert leases.choose("a", M1, None, None, 0) == at(50)
    assert leases.choose("a", M1, "printer", None, 0) == at(50), "the MAC address goes first"
    assert leases.choose("b", M2, "printer", None, 0) == at(3)
    assert leases.choose("b", M2, None, at(3), 0) == at(2), "nobody else gets it"
    leases.put(lease(2, "b", mac=M2), 0)
    assert leases.choose("c", M2, None, None, 0) == at(4), "not from the range either"


def test_another_system_on_the_same_card_has_the_reserved_address_at_once() -> None:
    leases = Leases(RESERVED, KEPT)
    leases.put(lease(50, "firmware"), 0)
    assert leases.may_have("system", M1, None, at(50), 1)
    leases.put(lease(3, "first", mac=M1), 0)
    assert not leases.may_have("second", M2, "printer", at(3), 1), "a name is no proof"


def test_json_and_back() -> None:
    leases = Leases(CONFIG, KEPT)
    leases.put(lease(2, "a", until=1), 0)
    leases.put(lease(3, "a"), 5)
    leases.put(lease(4, "a", state="declined"), 5)
    again = Leases(CONFIG, KEPT)
    again.load(leases.to_json(), 6)
    assert again.all() == leases.all()
    assert again.of_client("a") == leases.of_client("a")
    smaller = Leases(replace(CONFIG, last=at(2)), KEPT)
    smaller.load(leases.to_json(), 6)
    assert [one.address for one in smaller.all()] == [at(2)]


@pytest.mark.parametrize(("text", "where"), [("nonsense", "it"), ("[{}]", "0.address"), ('{"a": 1}', "it")])
def test_json_that_is_none_of_ours(text: str, where: str) -> None:
    with pytest.raises(ConfigError, match=f"^read leases: {where}: .*; remove them to begin anew$"):
        Leases(CONFIG, KEPT).load(text, 0)
