"""What is accepted, and each refusal with its advice."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, IPv6Network

import pytest

from vbackend.errors import ConfigError
from vbackend.services.config import (
    Dhcp4Config,
    DnsConfig,
    Interface,
    RaConfig,
    Reservation,
    Services,
    check,
    is_name,
    ra_interval,
    server_interface,
)

V4, V6 = IPv4Interface("10.0.0.1/24"), IPv6Interface("fd00::1/64")
BOTH: list[Interface] = [V4, V6]
DHCP = Dhcp4Config(IPv4Address("10.0.0.100"), IPv4Address("10.0.0.150"))
RA, DNS = RaConfig(), DnsConfig()
HOST = Reservation(IPv4Address("10.0.0.50"), mac=bytes(6), hostname="h1")


@pytest.mark.parametrize(
    ("services", "addresses"),
    [
        (Services(), []),
        (Services(DHCP, RA, DNS), BOTH),
        (Services(dhcp4=replace(DHCP, reservations=(HOST,))), [V4]),
        (Services(ra=RaConfig(prefixes=(IPv6Network("fd01::/64"),), lifetime=0)), [V4]),
        (Services(dns=DnsConfig(domain="lab.example", records={"a.b": (V4.ip,)})), [V6]),
    ],
)
def test_accepted(services: Services, addresses: list[Interface]) -> None:
    check(services, addresses, "switch lan")


def at(text: str) -> IPv4Address:
    return IPv4Address(text)


@pytest.mark.parametrize(
    ("services", "addresses", "text"),
    [
        (Services(dns=DNS), [], "need an address of their own; give addr="),
        (Services(), [IPv4Interface("224.0.0.1/24")], "cannot be a station's address"),
        (Services(dhcp4=DHCP), [V6], "the range begins at 10.0.0.100; give an addr= in its network"),
        (Services(dhcp4=replace(DHCP, last=at("10.0.1.1"))), BOTH, "is none in 10.0.0.0/24"),
        (Services(dhcp4=replace(DHCP, last=at("10.0.0.99"))), BOTH, "is none in 10.0.0.0/24"),
        (Services(dhcp4=replace(DHCP, first=at("10.0.0.0"))), BOTH, "is none in 10.0.0.0/24"),
        (Services(dhcp4=replace(DHCP, last=at("10.0.0.255"))), BOTH, "is none in 10.0.0.0/24"),
        (
            Services(dhcp4=Dhcp4Config(at("10.0.0.2"), at("10.0.16.2"))),
            [IPv4Interface("10.0.0.1/16")],
            "give at most 4096 addresses",
        ),
        (
            Services(dhcp4=replace(DHCP, reservations=(HOST,))),
            [V4, IPv4Interface("10.0.0.50/24")],
            "host 10.0.0.50: give another address",
        ),
        (Services(dhcp4=replace(DHCP, lease=0)), BOTH, "lease is 0 s"),
        (Services(dhcp4=replace(DHCP, mtu=67)), BOTH, "mtu is 67; give 68 to 65535"),
        (Services(dhcp4=replace(DHCP, domain="a b")), BOTH, "'a b' is no domain name"),
        (Services(dhcp4=replace(DHCP, dns=(V4.ip,) * 9)), BOTH, "at most 8 name servers"),
        (
            Services(dhcp4=replace(DHCP, routes=((IPv4Network("10.1.0.0/16"), V4.ip),) * 17)),
            BOTH,
            "16 routes",
        ),
        *(
            (Services(dhcp4=replace(DHCP, reservations=reservations)), BOTH, text)
            for reservations, text in [
                ((replace(HOST, address=at("10.0.1.50")),), "give another address of 10.0.0.0/24"),
                ((replace(HOST, address=V4.ip),), "give another address of 10.0.0.0/24"),
                ((replace(HOST, mac=None, hostname=None),), "give a MAC address or a host name"),
                ((replace(HOST, hostname="no name"),), "'no name' is no host name"),
                ((HOST, replace(HOST, mac=None, hostname="h2")), "10.0.0.50 is in two hosts"),
                (
                    (HOST, replace(HOST, address=at("10.0.0.51"), hostname="h2")),
                    "00:00:00:00:00:00 is in two",
                ),
                (
                    (HOST, replace(HOST, address=at("10.0.0.51"), mac=None, hostname="H1")),
                    "h1 is in two hosts",
                ),
            ]
        ),
        (Services(ra=RA), [V4], "there is no prefix to announce; give an IPv6 addr="),
        (
            Services(ra=RA),
            [V4, IPv6Interface("fe80::1/64")],
            "there is no prefix to announce; give an IPv6 addr=",
        ),
        (Services(ra=RaConfig(interval=3)), BOTH, "interval is 3 s; give 4 to 1800"),
        (Services(ra=RaConfig(lifetime=3)), BOTH, "lifetime is 3 s; give 0, or 4 to 65535"),
        (Services(ra=RaConfig(lifetime=599, interval=600)), BOTH, "lifetime is 599 s; give 0, or 600 to"),
        (Services(dhcp4=replace(DHCP, names={bytes(6): "h.1"})), BOTH, "'h.1' is no host name"),
        (Services(ra=RaConfig(valid=1)), BOTH, "give valid the longer"),
        (Services(ra=RaConfig(mtu=1279)), BOTH, "mtu is 1279; give 1280 to 65535"),
        (Services(ra=RaConfig(domains=("-a",))), BOTH, "'-a' is no domain name"),
        (Services(ra=RaConfig(domains=("a" * 60 + ".lab",) * 7)), BOTH, "give fewer, so that they fit"),
        (Services(ra=RaConfig(dns=(V6.ip,) * 9)), BOTH, "8 name servers"),
        (Services(dns=DnsConfig(domain="")), BOTH, "'' is no domain name"),
        (Services(dns=DnsConfig(domain=".".join(["a" * 60] * 4))), BOTH, "is no domain name"),
        (Services(dns=DnsConfig(records={"a..b": ()})), BOTH, "'a..b' is no host name"),
        (Services(dns=DnsConfig(ttl=-1)), BOTH, "ttl is -1 s"),
    ],
)
def test_refused(services: Services, addresses: list[Interface], text: str) -> None:
    with pytest.raises(ConfigError, match=r"^switch lan: ") as error:
        check(services, addresses, "switch lan")
    assert text in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("a", True),
        ("A-1_b.lab", True),
        ("", False),
        ("a.", False),
        ("-a", False),
        ("a-", False),
        ("a" * 63, True),
        ("a" * 64, False),
        (".".join("a" * 127), True),
        (".".join("a" * 128), False),
        ("ä", False),
    ],
)
def test_names(name: str, good: bool) -> None:
    assert is_name(name) is good


@pytest.mark.parametrize(
    ("lifetime", "interval", "expected"),
    [(1800, None, 600), (9000, None, 600), (300, None, 100), (5, None, 4), (0, None, 600), (1800, 30, 30)],
)
def test_interval_of_advertisements(lifetime: int, interval: int | None, expected: int) -> None:
    assert ra_interval(RaConfig(lifetime=lifetime, interval=interval)) == expected


def test_server_interface_is_the_one_in_the_range() -> None:
    other = IPv4Interface("10.1.0.1/24")
    assert server_interface(DHCP, [V6, other, V4]) == V4
    assert server_interface(DHCP, [V6, other]) is None
