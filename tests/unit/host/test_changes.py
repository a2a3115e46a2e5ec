"""Undoing single changes. The sequence of them, on devices of all kinds, is in tests/host."""

import os
from collections.abc import Callable
from typing import cast

import pytest

from tests.support.netns import Namespace, netns
from vbackend.host.changes import (
    AddressAdded,
    AnyChange,
    BridgeMade,
    JoinedBridge,
    LinkSet,
    SwitchSet,
    TableMade,
    TunAttached,
    disable_ipv6_path,
    parse_change,
    undo,
)
from vbackend.host.link import Links
from vbackend.host.netns import namespace_inode, run_in_namespace

__all__ = ["netns"]

DEVICE = {"netns": None, "inode": 1, "ifname": "tap0", "ifindex": 7}

EVERY_KIND: list[AnyChange] = [
    BridgeMade(netns="lab", inode=1, bridge="br0", mac="02:00:00:00:00:01"),
    AddressAdded.model_validate({**DEVICE, "address": "10.0.0.1/24"}),
    AddressAdded.model_validate({**DEVICE, "address": "fd00::1/128", "peer": "fd00::2/128"}),
    JoinedBridge.model_validate({**DEVICE, "bridge": "br0"}),
    LinkSet.model_validate({**DEVICE, "setting": "mtu", "was": "1500", "now": "9000"}),
    TableMade(netns="lab", inode=1, table="vbackend-a.b"),
    SwitchSet(netns=None, inode=1, path="net/ipv4/conf/eth0/forwarding", was="0", now="1"),
    TunAttached.model_validate({**DEVICE, "flags": 0x1002, "header": 10}),
]


@pytest.mark.parametrize("change", EVERY_KIND, ids=lambda change: change.kind)
def test_written_and_read(change: AnyChange) -> None:
    text = change.model_dump_json()
    assert "\n" not in text
    assert parse_change(text) == change
    with pytest.raises(ValueError, match="kind"):
        parse_change(text.replace(change.kind, "some-other"))


def test_every_kind_is_in_the_table() -> None:
    assert {type(change) for change in EVERY_KIND} == set(AnyChange.__args__)


def without_netlink(change: AnyChange) -> bool:
    return undo(change, cast(Links, None))


def in_links(netns: Namespace, change: Callable[[Links], AnyChange]) -> bool:
    def act() -> bool:
        with Links() as links:
            return undo(change(links), links)

    return run_in_namespace(netns.name, act)


def device(netns: Namespace, links: Links, ifname: str) -> dict[str, object]:
    inode = namespace_inode(netns.name)
    return {"netns": netns.name, "inode": inode, "ifname": ifname, "ifindex": links.get(ifname).index}


@pytest.mark.root
def test_a_bridge_with_members_stays_for_now(netns: Namespace) -> None:
    netns.ip("link", "add", "br0", "address", "02:00:00:00:00:01", "type", "bridge")
    netns.ip("tuntap", "add", "dev", "tap0", "mode", "tap")
    netns.ip("link", "set", "tap0", "master", "br0")
    change = BridgeMade(netns=netns.name, inode=1, bridge="br0", mac="02:00:00:00:00:01")
    assert not in_links(netns, lambda _: change)
    netns.ip("link", "set", "tap0", "nomaster")
    assert in_links(netns, lambda _: change)
    assert "br0" not in netns.links()
    assert in_links(netns, lambda _: change), "gone already"


@pytest.mark.root
@pytest.mark.parametrize("was", ["1400", "1500"])
def test_a_setting_is_put_back_where_it_is_still_ours(netns: Namespace, was: str) -> None:
    netns.ip("tuntap", "add", "dev", "tap0", "mode", "tap")
    netns.ip("link", "set", "tap0", "mtu", "9000")
    text = {"setting": "mtu", "was": was}
    assert in_links(
        netns, lambda links: LinkSet.model_validate({**device(netns, links, "tap0"), **text, "now": "8000"})
    )
    assert netns.links()["tap0"]["mtu"] == 9000
    assert in_links(
        netns, lambda links: LinkSet.model_validate({**device(netns, links, "tap0"), **text, "now": "9000"})
    )
    assert netns.links()["tap0"]["mtu"] == int(was)


@pytest.mark.root
def test_a_device_that_was_made_anew_is_not_the_one_we_changed(netns: Namespace) -> None:
    netns.ip("tuntap", "add", "dev", "tap0", "mode", "tap")

    def change(links: Links) -> AnyChange:
        made = {**device(netns, links, "tap0"), "address": "10.0.0.1/24"}
        netns.ip("link", "delete", "tap0")
        netns.ip("tuntap", "add", "dev", "tap0", "mode", "tap")
        netns.ip("address", "add", "10.0.0.1/24", "dev", "tap0")
        return AddressAdded.model_validate(made)

    assert in_links(netns, change)
    assert netns.addresses("tap0") == {"10.0.0.1/24"}


def test_the_ipv6_switch_of_names_with_dots() -> None:
    assert os.fspath(disable_ipv6_path("eth0.7")) == "/proc/sys/net/ipv6/conf/eth0.7/disable_ipv6"


@pytest.mark.root
def test_a_switch_stays_as_long_as_there_are_nats(netns: Namespace) -> None:
    netns.ip("link", "add", "out0", "type", "bridge")

    def now() -> str:
        return netns.run("sysctl", "-n", "net.ipv4.conf.out0.forwarding").strip()

    def undone(was: str = "0", path: str = "net/ipv4/conf/out0/forwarding") -> bool:
        change = SwitchSet(netns=netns.name, inode=1, path=path, was=was, now="1")
        return run_in_namespace(netns.name, lambda: without_netlink(change))

    netns.run("sysctl", "-qw", "net.ipv4.conf.out0.forwarding=1")
    table = TableMade(netns=netns.name, inode=1, table="vbackend-a.b")
    netns.run("nft", "add table inet vbackend-a.b; add table inet other; add table ip vbackend-x")
    assert not undone()
    assert now() == "1"
    for _ in range(2):
        assert run_in_namespace(netns.name, lambda: without_netlink(table))
    assert netns.run("nft", "list", "tables") == "table inet other\ntable ip vbackend-x\n"
    assert undone()
    assert now() == "0"
    assert undone(was="7"), "somebody else set it meanwhile"
    assert now() == "0"
    assert undone(path="net/ipv4/conf/gone0/forwarding")


@pytest.mark.root
def test_a_nat_that_comes_meanwhile_keeps_its_switch(
    netns: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = [[], ["vbackend-a.b"]]
    monkeypatch.setattr("vbackend.host.nft.tables", lambda: tables.pop(0))
    netns.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    change = SwitchSet(netns=netns.name, inode=1, path="net/ipv4/ip_forward", was="0", now="1")
    assert not run_in_namespace(netns.name, lambda: without_netlink(change))
    assert netns.run("sysctl", "-n", "net.ipv4.ip_forward") == "1\n"
    assert not tables
