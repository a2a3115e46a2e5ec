"""Ownership, without devices: what needs one is in tests/host."""

import asyncio
import threading
from pathlib import Path

import pytest

from tests.support.netns import Namespace, netns
from vbackend.errors import ConfigError, HostError
from vbackend.host.changes import AnyChange, BridgeMade
from vbackend.host.journal import Journal
from vbackend.host.link import Links
from vbackend.host.netns import namespace_inode
from vbackend.host.tap import HostDevices, Note
from vbackend.ports.spec import PortOptions, TapSpec, TunSpec

__all__ = ["netns"]


@pytest.fixture
def devices(tmp_path: Path) -> HostDevices:
    return HostDevices(Journal(tmp_path))


@pytest.mark.parametrize("name", ["a/b", "", "tap%d"])
async def test_names_are_checked_before_the_host_is_asked(devices: HostDevices, name: str) -> None:
    with pytest.raises(ConfigError, match="give 1 to 15 bytes"):
        await devices.open_tap(TapSpec(f"tap:{name}", PortOptions(), name))
    with pytest.raises(ConfigError, match="give 1 to 15 bytes"):
        await devices.open_tun(TunSpec(f"tun:{name}", PortOptions(), name))
    with pytest.raises(ConfigError, match="give 1 to 15 bytes"):
        await devices.open_tap(TapSpec("tap:tap0", PortOptions(), "tap0", bridge=name))


async def test_unknown_owner_and_namespace(devices: HostDevices) -> None:
    with pytest.raises(ConfigError, match="there is no such user"):
        await devices.open_tap(TapSpec("tap:tap0", PortOptions(), "tap0", owner="no-such-user"))
    with pytest.raises(HostError, match="`ip netns add vbtest-none`"):
        await devices.open_tun(TunSpec("tun:tun0", PortOptions(), "tun0", netns="vbtest-none"))


async def test_nothing_to_close(devices: HostDevices, tmp_path: Path) -> None:
    await devices.sweep()
    await devices.close_all()
    await devices.close_all()
    assert not list(tmp_path.iterdir())


def bridge_made(netns: Namespace, name: str) -> AnyChange:
    inode = namespace_inode(netns.name)
    assert inode is not None
    return BridgeMade(netns=netns.name, inode=inode, bridge=name, mac="02:00:00:00:00:01")


@pytest.mark.root
async def test_changes_of_others_are_noted_and_taken_back(
    devices: HostDevices, netns: Namespace, tmp_path: Path
) -> None:
    change = bridge_made(netns, "br0")

    def work(note: Note) -> None:
        note(change)
        with Links() as links:
            links.add_bridge("br0", "02:00:00:00:00:01")

    made = await devices.change(netns.name, work)
    assert made == [change]
    assert "br0" in netns.links()
    (journal,) = tmp_path.iterdir()
    assert change.model_dump_json() in journal.read_text()
    netns.ip("tuntap", "add", "dev", "port0", "mode", "tap")
    netns.ip("link", "set", "port0", "master", "br0")
    await devices.take_back(made)
    assert "br0" in netns.links(), "in use"
    netns.ip("link", "delete", "port0")
    await devices.take_back([])
    assert "br0" not in netns.links()
    assert not list(tmp_path.iterdir())


@pytest.mark.root
async def test_a_change_that_fails_or_is_cancelled_is_undone(
    devices: HostDevices, netns: Namespace, tmp_path: Path
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(note: Note) -> None:
        note(bridge_made(netns, "br0"))
        with Links() as links:
            links.add_bridge("br0", "02:00:00:00:00:01")
            begun.set()
            go_on.wait(20)
            if not cancelled:
                links.get("none")

    cancelled = False
    go_on.set()
    with pytest.raises(HostError, match="no network device 'none'"):
        await devices.change(netns.name, work)
    assert "br0" not in netns.links()

    cancelled = True
    begun.clear()
    go_on.clear()
    task = asyncio.create_task(devices.change(netns.name, work))
    await asyncio.to_thread(begun.wait, 20)
    task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "br0" not in netns.links()
    assert not list(tmp_path.iterdir())
