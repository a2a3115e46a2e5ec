"""What a switch's services are made of; the addresses that forwards lead to."""

from ipaddress import IPv4Address, ip_address

import pytest

from vbackend.lab.model import Dhcp, Dns, Nat, Nic, Ra, Switch
from vbackend.lab.served import guest_addresses, services_of
from vbackend.lab.steps import Service
from vbackend.services.config import Dhcp4Config, DnsConfig, RaConfig, Reservation, Services

MAC = "02:00:00:00:00:01"
ADDR = ("10.0.0.1/24", "fd00::1/64")
DHCP = Dhcp(range="10.0.0.100-10.0.0.150", lease="30m")


@pytest.mark.parametrize(
    ("service", "services"),
    [
        (Service(Switch(addr=ADDR)), Services()),
        (
            Service(Switch(addr=ADDR, dhcp=DHCP), {MAC: "10.0.0.50"}, guests={MAC: "h1"}),
            Services(
                Dhcp4Config(
                    IPv4Address("10.0.0.100"),
                    IPv4Address("10.0.0.150"),
                    lease=1800,
                    reservations=(Reservation(IPv4Address("10.0.0.50"), mac=bytes([2, 0, 0, 0, 0, 1])),),
                    names={bytes([2, 0, 0, 0, 0, 1]): "h1"},
                )
            ),
        ),
        (
            Service(Switch(addr=ADDR, dhcp=DHCP, nat=Nat(addr=("fd00::2/64", "10.0.0.2/24")))),
            Services(
                Dhcp4Config(
                    IPv4Address("10.0.0.100"),
                    IPv4Address("10.0.0.150"),
                    lease=1800,
                    router=IPv4Address("10.0.0.2"),
                )
            ),
        ),
        (
            Service(
                Switch(addr=ADDR, ra=Ra(lifetime="0"), dns=Dns(records={"www": "10.0.0.9"}, forward=True)),
                {},
                {"r1": ("10.0.0.5", "fd00::5")},
            ),
            Services(
                None,
                RaConfig(lifetime=0),
                DnsConfig(
                    "lab",
                    {
                        "r1": (ip_address("10.0.0.5"), ip_address("fd00::5")),
                        "www": (ip_address("10.0.0.9"),),
                    },
                    forward=True,
                ),
            ),
        ),
        (
            Service(Switch(addr=ADDR, ra=Ra(), nat=Nat(addr=("fd00::2/64",))), {}, {}),
            Services(None, RaConfig(router=b"\2gate\1")),
        ),
    ],
    ids=["pings", "dhcp", "nat's router", "ra and dns", "nat's IPv6"],
)
def test_what_is_served(service: Service, services: Services) -> None:
    assert services_of(service, b"\2gate\1") == services


@pytest.mark.parametrize(
    ("nat", "nics", "addresses"),
    [
        ((), [], []),
        ((), [Nic(mac=MAC)], ["10.0.0.50"]),
        ((), [Nic(mac="02:00:00:00:00:02")], []),
        (("10.0.0.2/24",), [Nic(addr=("10.7.0.1/24",)), Nic(mac=MAC)], ["10.0.0.50", "10.7.0.1"]),
        (("fd00::2/64",), [Nic(mac=MAC, addr=("fd00::5/64",))], ["fd00::5", "10.0.0.50"]),
    ],
    ids=["no guest", "reserved", "another's", "the switch's first", "both versions"],
)
def test_where_forwards_lead(nat: tuple[str, ...], nics: list[Nic], addresses: list[str]) -> None:
    service = Service(Switch(nat=Nat(addr=nat) if nat else None), {MAC: "10.0.0.50"})
    assert list(map(str, guest_addresses(service, nics))) == addresses
