"""Ownership, without devices: what needs one is in tests/host."""

from pathlib import Path

import pytest

from vbackend.errors import ConfigError, HostError
from vbackend.host.journal import Journal
from vbackend.host.tap import HostDevices
from vbackend.ports.spec import PortOptions, TapSpec, TunSpec


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
