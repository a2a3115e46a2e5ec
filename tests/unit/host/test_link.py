from collections.abc import Callable
from ipaddress import ip_address, ip_interface
from typing import TypeVar

import pytest

from tests.support.netns import Namespace, netns
from vbackend.errors import HostError
from vbackend.host.link import Links, TunFacts
from vbackend.host.netns import run_in_namespace

__all__ = ["netns"]

pytestmark = pytest.mark.root

T = TypeVar("T")


def inside(netns: Namespace, work: Callable[[Links], T]) -> T:
    def act() -> T:
        with Links() as links:
            return work(links)

    return run_in_namespace(netns.name, act)


def test_what_there_is(netns: Namespace) -> None:
    netns.ip("tuntap", "add", "dev", "tap0", "mode", "tap", "user", "7", "vnet_hdr", "multi_queue")
    netns.ip("tuntap", "add", "dev", "tun0", "mode", "tun", "pi")
    netns.ip("link", "add", "br0", "address", "02:00:00:00:00:01", "type", "bridge")
    netns.ip("link", "set", "tap0", "master", "br0", "up")

    def look(links: Links) -> None:
        bridge, tap, tun, lo = (links.get(name) for name in ("br0", "tap0", "tun0", "lo"))
        assert (bridge.kind, bridge.mac, bridge.mtu, bridge.up) == (
            "bridge",
            "02:00:00:00:00:01",
            1500,
            False,
        )
        assert (tap.kind, tap.up, tap.master) == ("tun", True, bridge.index)
        assert tap.tun == TunFacts("tap", 7, packet_info=False, vnet_header=True, multi_queue=True)
        assert tun.tun == TunFacts("tun", None, packet_info=True, vnet_header=False, multi_queue=False)
        assert (tun.mac, tun.master, lo.kind, lo.tun) == ("", None, "", None)
        assert links.members(bridge.index) == ["tap0"]
        assert (links.at(tap.index), links.at(9999)) == (tap, None)
        assert links.find("none") is None
        with pytest.raises(HostError, match="there is no network device 'none'"):
            links.get("none")

    inside(netns, look)


def test_changes(netns: Namespace) -> None:
    netns.ip("tuntap", "add", "dev", "tap0", "mode", "tap")

    def change(links: Links) -> None:
        bridge, tap = links.add_bridge("br0", "02:00:00:00:00:01"), links.get("tap0")
        assert links.get("br0").up
        links.set_link(tap, up=True, mtu=1400, mac="52:54:00:00:00:01")
        links.set_master(tap, bridge.index)
        changed = links.get("tap0")
        assert (changed.up, changed.mtu, changed.mac) == (True, 1400, "52:54:00:00:00:01")
        assert changed.master == bridge.index
        links.set_master(tap, None)
        links.set_link(tap)
        links.set_link(tap, up=False)
        assert (links.get("tap0").up, links.get("tap0").master) == (False, None)
        links.remove(bridge)
        assert links.find("br0") is None

    inside(netns, change)


@pytest.mark.parametrize(
    ("address", "peer", "shown"),
    [
        ("10.0.0.1/24", None, "10.0.0.1/24"),
        ("10.0.0.1", None, "10.0.0.1/32"),
        ("10.0.0.1", "10.0.0.2", "10.0.0.1 peer 10.0.0.2/32"),
        ("10.0.0.1", "10.0.0.2/24", "10.0.0.1 peer 10.0.0.2/24"),
        ("fd00::1/64", None, "fd00::1/64"),
        ("fd00::1", "fd00::2", "fd00::1 peer fd00::2/128"),
    ],
)
def test_addresses(netns: Namespace, address: str, peer: str | None, shown: str) -> None:
    netns.ip("tuntap", "add", "dev", "tun0", "mode", "tun")
    ours, theirs = ip_interface(address), None if peer is None else ip_interface(peer)

    def add(links: Links) -> None:
        link = links.get("tun0")
        assert not links.has_address(link.index, ours)
        links.add_address(link, ours, theirs)
        assert links.has_address(link.index, ours)
        assert theirs is None or not links.has_address(link.index, theirs), "the peer's is not ours"

    def remove(links: Links) -> None:
        links.remove_address(links.get("tun0"), ours, theirs)

    inside(netns, add)
    assert netns.addresses("tun0") == {shown}
    inside(netns, remove)
    assert netns.addresses("tun0") == set()


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (
            lambda links: links.set_link(links.get("tap0"), mtu=70_000),
            "cannot set tap0 mtu 70000: .*; .*give",
        ),
        (
            lambda links: links.add_bridge("tap0", "02:00:00:00:00:01"),
            "cannot make bridge tap0: File exists; see",
        ),
        (
            lambda links: links.remove_address(links.get("tap0"), ip_interface("10.0.0.1/24")),
            "cannot remove 10.0.0.1/24: Cannot assign requested address; ",
        ),
        (lambda links: links.set_master(links.get("tap0"), 9999), "cannot put tap0 on a bridge: .*; "),
    ],
)
def test_refusals_say_what_and_what_to_try(
    netns: Namespace, work: Callable[[Links], object], message: str
) -> None:
    netns.ip("tuntap", "add", "dev", "tap0", "mode", "tap")
    with pytest.raises(HostError, match=message):
        inside(netns, work)


def test_where_routes_lead(netns: Namespace) -> None:
    for name, address in (("out0", "192.0.2.1/24"), ("out1", "198.51.100.1/24"), ("out2", "203.0.113.1/24")):
        netns.ip("link", "add", name, "up", "type", "bridge")
        netns.ip("address", "add", address, "dev", name)
    netns.ip("link", "add", "idle0", "up", "type", "bridge")
    assert inside(netns, lambda links: links.routed(4)) == (set(), {"out0", "out1", "out2"})
    assert inside(netns, lambda links: links.routed(6)) == (set(), set()), "link-local ones lead nowhere"
    netns.ip("route", "add", "default", "via", "192.0.2.2")
    netns.ip(
        "route", "add", "default", "metric", "9", "nexthop", "via", "198.51.100.2", "nexthop", "dev", "out2"
    )
    netns.ip("route", "add", "blackhole", "10.0.0.0/8")
    netns.ip("-6", "route", "add", "default", "dev", "out1")
    assert inside(netns, lambda links: links.routed(4)) == (
        {"out0", "out1", "out2"},
        {"out0", "out1", "out2"},
    )
    assert inside(netns, lambda links: links.routed(6)) == ({"out1"}, {"out1"})
    assert set(inside(netns, lambda links: links.names())) == {"lo", "out0", "out1", "out2", "idle0"}


def test_a_default_route(netns: Namespace) -> None:
    netns.ip("link", "add", "out0", "up", "type", "bridge")
    netns.ip("address", "add", "192.0.2.1/24", "dev", "out0")

    def add(links: Links) -> None:
        for gateway in ("192.0.2.2", "fe80::2"):
            links.add_default_route(links.get("out0"), ip_address(gateway))
        with pytest.raises(HostError, match="cannot send IPv4 by out0: File exists"):
            links.add_default_route(links.get("out0"), ip_address("192.0.2.2"))

    inside(netns, add)
    assert "default via 192.0.2.2 dev out0" in netns.ip("-4", "route")
    assert "default via fe80::2 dev out0" in netns.ip("-6", "route")
