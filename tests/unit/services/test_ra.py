"""Advertisements as scapy reads them, and when they are due."""

from ipaddress import IPv6Address, IPv6Network

import pytest
from scapy.layers.inet6 import (
    ICMPv6ND_RA,
    ICMPv6NDOptDNSSL,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)

from tests.unit.services.test_wire import checked
from vbackend.services.config import RaConfig
from vbackend.services.ra import Advertiser, build_advertisement, encode_domains
from vbackend.services.wire import ALL_NODES, build_icmp, build_ip

MAC = bytes.fromhex("020000000001")
FROM = IPv6Address("fe80::1")
FULL = RaConfig(
    prefixes=(IPv6Network("fd00:1::/64"), IPv6Network("fd00:2::/48")),
    dns=(IPv6Address("fd00:1::1"),),
    domains=("lab", "example.org"),
    mtu=1400,
)


def read(config: RaConfig, *, final: bool = False) -> IPv6:
    message = build_icmp(FROM, ALL_NODES, build_advertisement(config, MAC, final=final))
    found = IPv6(build_ip(FROM, ALL_NODES, 58, message, hops=255))
    checked(found)
    return found


def test_all_of_it() -> None:
    found = read(FULL)
    head = found[ICMPv6ND_RA]
    assert (head.chlim, head.M, head.O, head.routerlifetime) == (64, 0, 1, 1800)
    assert found[ICMPv6NDOptSrcLLAddr].lladdr == MAC.hex(":")
    assert found[ICMPv6NDOptMTU].mtu == 1400
    first = found[ICMPv6NDOptPrefixInfo]
    second = first.payload[ICMPv6NDOptPrefixInfo]
    assert [(one.prefix, one.prefixlen, one.L, one.A) for one in (first, second)] == [
        ("fd00:1::", 64, 1, 1),
        ("fd00:2::", 48, 1, 0),
    ]
    assert (first.validlifetime, first.preferredlifetime) == (86400, 14400)
    assert (found[ICMPv6NDOptRDNSS].dns, found[ICMPv6NDOptRDNSS].lifetime) == (["fd00:1::1"], 1800)
    assert (found[ICMPv6NDOptDNSSL].searchlist, found[ICMPv6NDOptDNSSL].lifetime) == (
        ["lab.", "example.org."],
        1800,
    )


def test_the_least() -> None:
    found = read(RaConfig(prefixes=(), dns=(), domains=(), stateless=False))
    assert found[ICMPv6ND_RA].O == 0
    layers = {layer.__name__ for layer in found.layers()}
    assert layers == {"IPv6", "ICMPv6ND_RA", "ICMPv6NDOptSrcLLAddr"}


def test_the_last_one_ends_router_and_name_servers() -> None:
    found = read(FULL, final=True)
    assert found[ICMPv6ND_RA].routerlifetime == 0
    assert (found[ICMPv6NDOptRDNSS].lifetime, found[ICMPv6NDOptDNSSL].lifetime) == (0, 0)
    assert found[ICMPv6NDOptPrefixInfo].validlifetime == 86400


def test_the_most_that_is_accepted_fits_the_smallest_link() -> None:
    most = RaConfig(
        prefixes=(IPv6Network("fd00:1::/64"),) * 16,
        dns=(FROM,) * 8,
        domains=("a" * 50,) * 8,
        mtu=1400,
    )
    assert len(build_advertisement(most, MAC).body) + 4 + 40 <= 1280


def test_domains() -> None:
    assert encode_domains(("lab", "a.bc")) == b"\3lab\0\1a\2bc\0"


@pytest.mark.parametrize(("random", "later"), [(0.0, 198.0), (1.0, 600.0), (0.5, 399.0)])
def test_intervals(random: float, later: float) -> None:
    """RFC 4861 6.2.4: the first three come sooner."""
    times = Advertiser(600, lambda: random, 1000.0)
    assert times.due == 1000
    for expected in (16.0, 16.0, later, later):
        now = times.due
        times.sent(now)
        assert times.due - now == pytest.approx(expected)


def test_short_intervals_keep_their_distance() -> None:
    times = Advertiser(4, lambda: 0.0, 0.0)
    times.sent(0)
    assert times.due == 3


def test_solicitations() -> None:
    times = Advertiser(600, lambda: 1.0, 0.0)
    times.sent(0)
    unspecified = IPv6Address("::")
    assert times.solicited(FROM, 1)
    assert times.due == 16
    assert not times.solicited(unspecified, 1)
    assert times.due == 3, "three seconds after the last one to all"
    times.sent(3)
    assert not times.solicited(unspecified, 10)
    assert times.due == 10.5
    assert not times.solicited(unspecified, 10.2)
    assert times.due == 10.5, "one for all of them"
