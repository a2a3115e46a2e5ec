from pathlib import Path

import pytest

from vbackend.host.forwarding import Setting, outward_devices, plan, read_setting, setting_path

V4, V6 = "net/ipv4/conf", "net/ipv6/conf"
OFF = {
    f"{V4}/all/forwarding": "0",
    f"{V4}/tap0/forwarding": "0",
    f"{V4}/tap0/route_localnet": "0",
    f"{V4}/eth0/forwarding": "0",
    f"{V6}/all/forwarding": "0",
    f"{V6}/eth0/accept_ra": "1",
    f"{V6}/eth1/accept_ra": "0",
    f"{V6}/tap0/accept_ra": "1",
}
NEW = OFF | {f"{V6}/tap0/force_forwarding": "0", f"{V6}/eth0/force_forwarding": "0"}  # Linux 6.17


@pytest.mark.parametrize(
    ("defaults", "routed", "expected"),
    [
        ({"eth0"}, {"eth0", "wg0"}, ("eth0",)),
        ({"wlan0", "eth0"}, {"eth0", "wlan0"}, ("eth0", "wlan0")),
        (set(), {"eth1", "lo", "tap0", "eth0"}, ("eth0", "eth1")),
        ({"tap0"}, {"tap0"}, ()),
    ],
)
def test_where_the_outside_is(defaults: set[str], routed: set[str], expected: tuple[str, ...]) -> None:
    assert outward_devices(defaults, routed, "tap0") == expected


@pytest.mark.parametrize(
    ("stand", "versions", "private", "loopback", "expected"),
    [
        (OFF, (4,), False, False, [f"{V4}/tap0/forwarding=1", f"{V4}/eth0/forwarding=1"]),
        (OFF | {f"{V4}/eth0/forwarding": "1"}, (4,), False, False, [f"{V4}/tap0/forwarding=1"]),
        (
            OFF,
            (4,),
            False,
            True,
            [f"{V4}/tap0/forwarding=1", f"{V4}/eth0/forwarding=1", f"{V4}/tap0/route_localnet=1"],
        ),
        (OFF, (4, 6), True, False, [f"{V4}/all/forwarding=1", f"{V6}/all/forwarding=1"]),
        (NEW, (6,), False, True, [f"{V6}/tap0/force_forwarding=1", f"{V6}/eth0/force_forwarding=1"]),
        (NEW | {f"{V6}/all/forwarding": "1"}, (6,), False, False, []),
        # Routers are listened to still, and before forwarding would make the kernel forget what they said.
        (
            OFF,
            (6,),
            False,
            False,
            [f"{V6}/eth0/accept_ra=2", f"{V6}/tap0/accept_ra=2", f"{V6}/all/forwarding=1"],
        ),
        ({}, (4, 6), False, True, []),
    ],
)
def test_the_plan(
    stand: dict[str, str], versions: tuple[int, ...], private: bool, loopback: bool, expected: list[str]
) -> None:
    found = plan(
        versions,
        "tap0",
        private=private,
        outward={4: ("eth0",), 6: ("eth0",)},
        devices=("lo", "eth0", "eth1", "tap0"),
        loopback=loopback,
        read=stand.get,
    )
    assert [f"{setting.path}={setting.now}" for setting in found] == expected
    assert all(isinstance(setting, Setting) and setting.was == stand[setting.path] for setting in found)


def test_switches_are_files() -> None:
    assert setting_path("net/ipv4/ip_forward") == Path("/proc/sys/net/ipv4/ip_forward")
    assert read_setting("net/ipv4/ip_forward") in ("0", "1")
    assert read_setting("net/ipv4/conf/no-such-device/forwarding") is None
