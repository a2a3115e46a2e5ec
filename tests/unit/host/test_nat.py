"""What is said before and instead of a NAT; real ones are in tests/host/test_nat.py."""

from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest

from tests.support.netns import Namespace, differences, netns
from vbackend.errors import ConfigError, HostError
from vbackend.host.journal import Journal
from vbackend.host.nat import Nat
from vbackend.host.ruleset import NatConfig, parse_forward
from vbackend.host.tap import HostDevices

__all__ = ["netns"]


@pytest.fixture
def devices(tmp_path: Path) -> HostDevices:
    return HostDevices(Journal(tmp_path))


def config(*forward: str) -> NatConfig:
    return NatConfig((ip_interface("10.0.0.254/24"),), tuple(map(parse_forward, forward)))


def test_names_and_guests_are_looked_at_first(devices: HostDevices) -> None:
    assert Nat(devices, "lab", "lan", config()).table == "vbackend-lab.lan"
    with pytest.raises(ConfigError, match=r"lab 'a\.b'"):
        Nat(devices, "a.b", "lan", config())
    with pytest.raises(ConfigError, match="no address of h1 is known"):
        Nat(devices, "lab", "lan", config("tcp:80:h1:80"))
    with pytest.raises(ConfigError, match=r"forward to fd00::5: lan has no IPv6 address for its NAT"):
        Nat(devices, "lab", "lan", config("tcp:80:[fd00::5]:80"))
    Nat(devices, "lab", "lan", config("tcp:80:h1:80"), look_up=lambda _: [ip_address("10.0.0.1")])


@pytest.mark.root
async def test_a_gateway_that_is_not_there(devices: HostDevices, netns: Namespace, tmp_path: Path) -> None:
    before = netns.state()
    for where, message in (
        (netns.name, "there is no network device 'vb"),
        ("vbtest-none", "`ip netns add vbtest-none`"),
    ):
        nat = Nat(devices, "lab", "lan", config(), netns=where)
        with pytest.raises(HostError, match=message):
            await nat.start()
        await nat.stop()
    assert not differences(before, netns.state())
    assert not list(tmp_path.iterdir())


@pytest.mark.root
async def test_a_failure_midway_is_undone(
    devices: HostDevices, netns: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netns.ip("link", "add", "gw0", "type", "bridge")
    before = netns.state()
    monkeypatch.setattr("vbackend.host.nat.setting_path", lambda _: tmp_path / "no" / "such")
    with pytest.raises(
        HostError, match=r"cannot set net\.ipv4\.conf\.gw0\.forwarding=1 for the NAT of gw0: No such"
    ):
        await Nat(devices, "lab", "lan", config(), netns=netns.name, ifname="gw0").start()
    assert not differences(before, netns.state())
    assert not list(tmp_path.iterdir())


@pytest.mark.root
async def test_two_of_one_process(devices: HostDevices, netns: Namespace, tmp_path: Path) -> None:
    for name in ("gw0", "gw1"):
        netns.ip("link", "add", name, "type", "bridge")
        netns.run("sysctl", "-qw", f"net.ipv4.conf.{name}.forwarding=0")
    netns.ip("link", "add", "out0", "type", "bridge")
    netns.ip("link", "set", "out0", "addrgenmode", "none", "up")
    netns.ip("address", "add", "192.0.2.1/24", "dev", "out0")
    netns.ip("route", "add", "default", "via", "192.0.2.2")
    netns.run("sysctl", "-qw", "net.ipv4.conf.out0.forwarding=0")

    def forwards(name: str) -> bool:
        return netns.run("sysctl", "-n", f"net.ipv4.conf.{name}.forwarding") == "1\n"

    before = netns.state()
    first, second = (
        Nat(devices, "lab", segment, config(), netns=netns.name, ifname=ifname)
        for segment, ifname in (("lan", "gw0"), ("wan", "gw1"))
    )
    async with second:
        async with first:
            assert [forwards(name) for name in ("gw0", "gw1", "out0")] == [True, True, True]
        assert [forwards(name) for name in ("gw1", "out0")] == [True, True]
    assert [forwards(name) for name in ("gw0", "gw1", "out0")] == [False, False, False]
    await first.start()
    await second.start()
    await first.stop()
    assert forwards("out0")
    await second.stop()
    assert not forwards("out0")
    assert not differences(before, netns.state())
    assert not list(tmp_path.iterdir())
