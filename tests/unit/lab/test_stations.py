"""What a switch's services are made of; leases that outlive the daemon."""

from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest

from vbackend.backend import Backend
from vbackend.lab.model import Dhcp, Dns, Nat, Ra, Switch
from vbackend.lab.state import LabFolder
from vbackend.lab.stations import Stations, services_of, station_name
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
            Service(Switch(addr=ADDR, dhcp=DHCP), {MAC: "10.0.0.50"}),
            Services(
                Dhcp4Config(
                    IPv4Address("10.0.0.100"),
                    IPv4Address("10.0.0.150"),
                    lease=1800,
                    reservations=(Reservation(IPv4Address("10.0.0.50"), mac=bytes([2, 0, 0, 0, 0, 1])),),
                    names={b"mac": "h1"},
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
                    names={b"mac": "h1"},
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
    ],
    ids=["pings", "dhcp", "nat's router", "ra and dns"],
)
def test_what_is_served(service: Service, services: Services) -> None:
    assert services_of(service, {b"mac": "h1"}) == services


async def test_start_and_stop(tmp_path: Path) -> None:
    folder = LabFolder("t", {"XDG_RUNTIME_DIR": str(tmp_path)})
    folder.make()
    lease = (
        '[{"address":"10.0.0.100","client":"0102","mac":"02:00:00:00:00:01",'
        '"hostname":"r1","state":"bound","until":4000000000.0}]'
    )
    (folder.root / "leases-lan.json").write_text(lease)
    async with Backend(name="t", segment=None) as backend:
        await backend.start([])
        backend.add_segment("lan", "switch")
        stations = Stations(folder, backend)
        await stations.start("lan", Service(Switch(addr=ADDR, dhcp=DHCP)), {})
        assert [port.name for port in backend.snapshot().ports] == [station_name("lan")]
        assert "10.0.0.100" in stations.snapshots()["lan"].model_dump_json()
        await stations.stop("lan")
        assert (stations.snapshots(), backend.snapshot().ports) == ({}, ())
        await stations.start("lan", Service(Switch(addr=ADDR)), {})
        await stations.close()
        assert stations.snapshots() == {}
