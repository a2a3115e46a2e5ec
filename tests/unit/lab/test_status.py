"""What a lab looks like, put together; and what goes over its links."""

from ipaddress import IPv4Address

from tests.unit.control.fakes import port
from tests.unit.lab.lab_yard import two
from vbackend.lab.picture import picture
from vbackend.lab.status import EndStatus, LabStatus, NicStatus, VmSeen, lab_status, rates
from vbackend.services.leases import Lease
from vbackend.services.snapshot import StationSnapshot
from vbackend.snapshot import BackendSnapshot, LaneCounters, SessionInfo

MAC = "02:00:00:00:00:01"
SESSION = SessionInfo(number=1, peer="unix pid 1 (qemu)", since=1.0)

LEASES = [
    Lease(address=IPv4Address(address), client="01", mac=MAC, hostname="h1", state="bound", until=until)
    for address, until in (("10.0.0.5", 101.0), ("10.0.0.6", 99.0))
]
STATION = StationSnapshot(
    name="lan:services",
    mac="02:00:00:00:00:09",
    addresses=(),
    services=("dhcp",),
    received=0,
    handled={},
    drops={},
    sent=0,
    lost=0,
    advertisements=0,
    dns_answers={},
    dns_waiting=0,
    leases=tuple(LEASES),
)


def backend(to_a: int, to_b: int) -> BackendSnapshot:
    lanes = {
        name: LaneCounters(frames_in=count + 1, frames_out=count, bytes_out=100 * count, drops={"no-peer": 1})
        for name, count in (("a:eth0", to_a), ("b:eth0", to_b))
    }
    ports = [
        port(name).model_copy(update={"tx": lane, "session": SESSION if name == "a:eth0" else None})
        for name, lane in lanes.items()
    ]
    return BackendSnapshot(
        name="two", version="1", pid=7, started=5.0, workers=1, segments=(), ports=tuple(ports)
    )


def status(to_a: int = 2, to_b: int = 3) -> LabStatus:
    lab = two("/d", '[switch.lan]\nports = ["b:eth1"]\n', "back = { rate = '1M' }\nup = false")
    seen = picture(lab)
    vms = {
        "a": VmSeen(machine=seen.vms["a"], state="running", reason="", pid=9, since=1.0),
        "b": VmSeen(machine=seen.vms["b"], state="failed", reason="why", pid=None, since=2.0),
    }
    return lab_status(
        seen,
        vms,
        backend(to_a, to_b),
        file="/f",
        changing=False,
        ending=False,
        stations={"lan": STATION},
        now=100.0,
    )


def test_vms() -> None:
    found = status()
    assert (found.name, found.pid, found.since, found.file) == ("two", 7, 5.0, "/f")
    one, two_ = found.vms
    assert (one.name, one.state, one.pid, one.agent) == ("a", "running", 9, False)
    assert [(nic.name, nic.link, nic.connected) for nic in one.nics] == [("eth0", "core", True)]
    assert (two_.state, two_.reason) == ("failed", "why")
    assert [(nic.name, nic.link, nic.connected) for nic in two_.nics] == [
        ("eth1", "lan/b:eth1", False),
        ("eth0", "core", False),
    ]
    assert isinstance(one.nics[0], NicStatus)
    assert one.nics[0].mac.startswith("02:")


def test_links() -> None:
    cable = next(link for link in status().links if link.title == "core")
    assert (cable.kind, cable.up) == ("cable", False)
    assert cable.ends == (
        EndStatus(
            name="a:eth0", up=True, connected=True, frames=2, bytes=200, dropped=1, impair={"rate": "1M"}
        ),
        EndStatus(name="b:eth0", up=True, connected=False, frames=3, bytes=300, dropped=1),
    )
    lan = next(link for link in status().links if link.kind == "switch")
    assert (lan.title, lan.ends[0].connected) == ("lan/b:eth1", False)


def test_leases_that_are_not_over() -> None:
    assert [(lease.switch, lease.mac, lease.address, lease.hostname) for lease in status().leases] == [
        ("lan", "02:00:00:00:00:01", "10.0.0.5", "h1")
    ]


def test_rates() -> None:
    found = rates(status(2, 3), status(4, 13), 2.0)
    assert found["core"] == (1000 * 8 / 2, 200 * 8 / 2)  # from a to b, and back
    assert found["lan/b:eth1"] == (0.0, 0.0)
    assert rates(status(4, 4), status(0, 0), 1.0)["core"] == (0.0, 0.0)  # its ports are new
