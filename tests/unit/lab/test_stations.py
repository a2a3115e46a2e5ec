"""Stations that start and stop; leases that outlive the daemon."""

from ipaddress import IPv4Address
from pathlib import Path

import pytest

from vbackend.backend import Backend
from vbackend.lab.model import Dhcp, Switch
from vbackend.lab.state import LabFolder
from vbackend.lab.stations import Stations, station_name
from vbackend.lab.steps import Service
from vbackend.services.dhcp4 import LeaseEvent
from vbackend.services.leases import Lease

MAC = "02:00:00:00:00:01"
ADDR = ("10.0.0.1/24", "fd00::1/64")
DHCP = Dhcp(range="10.0.0.100-10.0.0.150", lease="30m")


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
        await stations.start("lan", Service(Switch(addr=ADDR, dhcp=DHCP)))
        assert [port.name for port in backend.snapshot().ports] == [station_name("lan")]
        assert "10.0.0.100" in stations.snapshots()["lan"].model_dump_json()
        await stations.stop("lan")
        assert (stations.snapshots(), backend.snapshot().ports) == ({}, ())
        await stations.start("lan", Service(Switch(addr=ADDR)))
        await stations.close()
        assert stations.snapshots() == {}


async def test_leases_that_cannot_be_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As on a full disk: what a station's callbacks raise ends it."""
    folder = LabFolder("t", {"XDG_RUNTIME_DIR": str(tmp_path)})
    folder.make()
    async with Backend(name="t", segment=None) as backend:
        await backend.start([])
        backend.add_segment("lan", "switch")
        stations = Stations(folder, backend)
        await stations.start("lan", Service(Switch(addr=ADDR, dhcp=DHCP)))
        (folder.root / "leases-lan.json").mkdir()
        address = IPv4Address("10.0.0.100")
        lease = Lease(address=address, client="01", mac=MAC, hostname=None, state="bound", until=1.0)
        for callback in stations._running["lan"]._callbacks:
            callback(LeaseEvent("given", lease))
        await stations.close()
    assert "lan:services: a successor will not know its leases: cannot keep the lab's state" in caplog.text
