"""The pure check. What `set_up` makes is in tests/host/test_devices.py, on every kind of device."""

from ipaddress import ip_interface

import pytest

from vbackend.errors import ConfigError
from vbackend.host.setup import check_addresses


@pytest.mark.parametrize(
    ("addresses", "peers", "mtu"),
    [
        ((), (), None),
        ((), (), 68),
        (("10.0.0.1/24",), (), 576),
        (("10.0.0.1", "fd00::1"), ("fd00::2", "10.0.0.2"), 1280),
        (("fd00::1",), (), None),
    ],
)
def test_addresses_that_fit(addresses: tuple[str, ...], peers: tuple[str, ...], mtu: int | None) -> None:
    check_addresses("port 'x'", [ip_interface(a) for a in addresses], [ip_interface(p) for p in peers], mtu)


@pytest.mark.parametrize(
    ("addresses", "peers", "mtu", "message"),
    [
        (
            (),
            ("10.0.0.2",),
            None,
            "peer=10.0.0.2 has no address of ours; give addr= with an IPv4 address too",
        ),
        (("10.0.0.1",), ("fd00::2",), None, "give addr= with an IPv6 address too"),
        (("fd00::1/64",), (), 1279, "mtu=1279 is too small for IPv6; give at least 1280"),
    ],
)
def test_addresses_that_do_not(
    addresses: tuple[str, ...], peers: tuple[str, ...], mtu: int | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=f"^port 'x': .*{message}$"):
        check_addresses(
            "port 'x'", [ip_interface(a) for a in addresses], [ip_interface(p) for p in peers], mtu
        )
