"""The I/O half of steps: ports and segments of a backend; VMs are in test_machines.py, all of it in test_daemon.py."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.qemu_peers import eventually
from vbackend.backend import Backend
from vbackend.errors import ConfigError, HostError
from vbackend.host.tap import HostDevices
from vbackend.lab.machines import VmNow
from vbackend.lab.model import Capture, Dhcp, Dns, Lab, Nic, Switch, Vm
from vbackend.lab.model import Nat as SwitchNat
from vbackend.lab.picture import Machine, Picture
from vbackend.lab.state import LabFolder
from vbackend.lab.steps import (
    AddSegment,
    CableState,
    JoinEnd,
    LeaveEnd,
    NicPort,
    RemoveSegment,
    Service,
    SetCable,
    SetImpairment,
    StartCapture,
    StartService,
    StartVm,
    StopCapture,
    StopService,
    SwitchPort,
)
from vbackend.lab.world import LabWorld
from vbackend.ports.base import Port
from vbackend.ports.channel import Channel


class Yard:
    def __init__(self, world: LabWorld, backend: Backend, folder: Path) -> None:
        self.world = world
        self.backend = backend
        self.folder = folder

    def ports(self) -> dict[str, tuple[str, bool]]:
        return {port.name: (port.where, port.up) for port in self.backend.snapshot().ports}


@pytest_asyncio.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    folder = LabFolder("t", {"XDG_RUNTIME_DIR": str(tmp_path)})
    folder.make()
    folder.fill()
    devices = HostDevices()
    async with Backend(name="t", segment=None, host=devices) as backend:
        await backend.start([])
        yield Yard(LabWorld(folder, backend, devices, None, lambda *_: None), backend, folder.root)
    await devices.close_all()


async def test_ends_join_and_leave(yard: Yard, tmp_path: Path) -> None:
    world = yard.world
    await world.add_segment(AddSegment("core", "cable", CableState(up=False)))
    socket = f"stream:unix:{tmp_path}/s"
    await world.join_end(JoinEnd("core", "r1:eth0", NicPort(), {"rate": "1M", "burst": "4k"}))
    await world.join_end(JoinEnd("core", f"{socket},name=out"))
    assert yard.ports() == {
        "r1:eth0": (f"stream:unix:{yard.folder}/port/r1:eth0.sock", False),
        "out": (socket, False),
    }
    assert yard.backend.snapshot().ports[0].rate == 1_000_000
    await world.set_cable(SetCable("core", CableState(up=True), CableState(up=False)))
    assert [up for _, up in yard.ports().values()] == [True, True]
    await world.set_impairment(SetImpairment("core", "r1:eth0", {"rate": "2M"}, {"rate": "1M"}))
    assert yard.backend.snapshot().ports[0].rate == 2_000_000
    await world.set_impairment(SetImpairment("core", "r1:eth0", {}, {"rate": "2M"}))
    assert yard.backend.snapshot().ports[0].rate is None
    await world.leave_end(LeaveEnd("core", "r1:eth0", NicPort()))
    await world.leave_end(LeaveEnd("core", f"{socket},name=out"))
    await world.remove_segment(RemoveSegment("core", "cable"))
    assert (yard.ports(), yard.backend.snapshot().segments) == ({}, ())


async def test_rings(yard: Yard) -> None:
    await yard.world.add_segment(AddSegment("lan", "switch"))
    await yard.world.join_end(JoinEnd("lan", "r1:eth0", NicPort("vhost-user", 2, 9000)))
    assert (yard.folder / "port" / "r1:eth0.sock").is_socket()


async def test_a_join_that_fails_leaves_nothing(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    await yard.world.add_segment(AddSegment("core", "cable", CableState(up=False)))

    def broken(*_: object, **__: object) -> None:
        raise ConfigError("no")

    monkeypatch.setattr(Port, "set", broken)
    with pytest.raises(ConfigError, match="no"):
        await yard.world.join_end(JoinEnd("core", "r1:eth0", NicPort()))
    assert yard.ports() == {}


async def test_what_cannot_be(yard: Yard) -> None:
    world = yard.world
    with pytest.raises(ConfigError, match="vhost-user and joined to nothing"):
        await world.start_vm(StartVm("a", Vm(disk="/d"), {"eth0": Nic(transport="vhost-user")}))
    await world.add_segment(AddSegment("lan", "switch"))
    await world.join_end(JoinEnd("lan", "r1:eth0", NicPort()))
    forwarding = SwitchNat(addr=("10.0.0.1/24",), forward=("tcp:8080:r9:80",))
    nat = StartService("lan", Service(Switch(nat=forwarding)))
    with pytest.raises(ConfigError, match="forward"):
        await world.start_service(nat)
    with pytest.raises(HostError, match="cannot write it: No such file"):
        await world.start_capture(StartCapture(Capture(file="/no/such/x.pcapng")))
    with pytest.raises(ConfigError, match="there is no segment 'none'"):
        await world.join_end(JoinEnd("none", "r2:eth0", NicPort()))


async def test_services_and_captures(yard: Yard, tmp_path: Path) -> None:
    world, file = yard.world, tmp_path / "lab.pcapng"
    await world.add_segment(AddSegment("lan", "switch"))
    await world.join_end(JoinEnd("lan", "r1:eth0", NicPort()))
    start = StartService("lan", Service(Switch(addr=("10.0.0.1/24",), dns=Dns())))
    await world.start_service(start)
    assert "lan:services" in yard.ports()
    capture = Capture(file=str(file), links=("lan/r1:eth0",))
    await world.start_capture(StartCapture(capture))
    await world.stop_capture(StopCapture(capture))
    assert file.read_bytes()[:4] == b"\n\r\r\n"
    await world.stop_service(StopService("lan", start.service))
    assert "lan:services" not in yard.ports()
    await world.start_service(start)
    await world.start_capture(StartCapture(capture))
    await world.close()
    assert "lan:services" not in yard.ports()


async def test_impairments(yard: Yard) -> None:
    world = yard.world
    await world.add_segment(AddSegment("core", "cable"))
    lossy = {"loss": "gilbert:p=1%,r=10%", "delay": "5ms", "seed": "7"}
    await world.join_end(JoinEnd("core", "r1:eth0", NicPort(), lossy))
    before = yard.backend.snapshot().ports[0].impairment
    assert before is not None
    await world.set_impairment(SetImpairment("core", "r1:eth0", {"delay": "9ms"}, lossy))
    after = yard.backend.snapshot().ports[0].impairment
    assert after is not None
    assert after != before
    await world.set_impairment(SetImpairment("core", "r1:eth0", {}, {"delay": "9ms"}))
    assert yard.backend.snapshot().ports[0].impairment is None


async def test_what_is_not_said_any_more_is_as_before(yard: Yard, tmp_path: Path) -> None:
    world = yard.world
    ends = {"r1:eth0": NicPort(), f"stream:unix:{tmp_path}/s": None}
    said = {"rate": "1M", "burst": "90k", "queue": "5", "loss": "gilbert:p=1%,r=10%"}
    await world.add_segment(AddSegment("core", "cable"))
    for end, port in ends.items():
        await world.join_end(JoinEnd("core", end, port))
    before = yard.backend.snapshot().ports
    for end in ends:
        await world.set_impairment(SetImpairment("core", end, said, {}))
    assert [(port.rate, port.burst, port.queue_frames) for port in yard.backend.snapshot().ports] == [
        (1_000_000, 90_000, 5)
    ] * 2
    for end in ends:
        await world.set_impairment(SetImpairment("core", end, {"rate": "1M"}, said))
    assert [(port.rate, port.burst) for port in yard.backend.snapshot().ports] == [(1_000_000, 16_384)] * 2
    for end in ends:
        await world.set_impairment(SetImpairment("core", end, {}, {"rate": "1M"}))
    assert yard.backend.snapshot().ports == before


async def test_an_undo_starts_services_for_guests_that_the_wanted_lab_has_no_more(yard: Yard) -> None:
    world = yard.world
    nic = Nic(mac="02:00:00:00:00:07", addr=("10.0.0.7/24",))
    await world.add_segment(AddSegment("lan", "switch"))
    await world.join_end(JoinEnd("lan", "r1:eth0", NicPort()))
    world.machines.vms["r1"] = VmNow(Machine(Vm(disk="/d"), {"eth0": nic}), "running")
    dhcp = Dhcp(range="10.0.0.100-10.0.0.110")
    service = Service(Switch(addr=("10.0.0.1/24",), dhcp=dhcp))
    world.expect(Lab(name="t"))
    await world.start_service(StartService("lan", service))
    await world.stop_service(StopService("lan", service))
    elsewhere = Vm(disk="/d", nic={"eth0": Nic(), "eth1": Nic()})
    world.expect(Lab(name="t", vm={"r1": elsewhere}))
    await world.start_service(StartService("lan", service))
    await world.close()


async def test_nothing_to_take_over(yard: Yard) -> None:
    assert await yard.world.take_over() == Picture()


A, B = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
ALL, TYPE = b"\xff" * 6, b"\x88\xb5"


async def join_switches(world: LabWorld, *cables: str) -> None:
    """Cables of switches, "TITLE ONE TWO"."""
    for cable in cables:
        title, *switches = cable.split()
        await world.add_segment(AddSegment(title, "cable"))
        for switch in switches:
            await world.join_end(JoinEnd(title, f"{switch}:{title}", SwitchPort(switch)))


async def test_a_cable_between_switches(yard: Yard) -> None:
    world, backend = yard.world, yard.backend
    for switch in ("lan", "wan"):
        await world.add_segment(AddSegment(switch, "switch"))
    await join_switches(world, "core lan wan")

    def learned() -> dict[str, set[tuple[str, str]]]:
        segments = backend.snapshot().segments
        return {each.name: {(entry.mac, entry.port) for entry in each.fdb} for each in segments}

    async def arrives(sender: Channel, receiver: Channel, frame: bytes) -> None:
        await sender.send(frame)
        async with asyncio.timeout(10):
            assert await receiver.recv() == frame

    a, b = [await backend.open_channel(name, segment=at) for name, at in (("a", "lan"), ("b", "wan"))]
    with a, b:
        await arrives(a, b, ALL + A + TYPE + bytes(50))
        await arrives(b, a, A + B + TYPE + bytes(1500))
        one, two = (A.hex(":"), "a"), (B.hex(":"), "lan:core@core")
        assert learned()["lan"] == {one, two}
        assert learned()["wan"] == {(A.hex(":"), "wan:core@core"), (B.hex(":"), "b")}

        await world.set_cable(SetCable("core", CableState(up=False), CableState()))
        assert learned()["lan"] == {one}, "what was learned from a cable goes with it"
        await a.send(ALL + A + TYPE + bytes(50))
        await world.set_cable(SetCable("core", CableState(), CableState(up=False)))
        await arrives(b, a, A + B + TYPE + b"again".ljust(50))
        assert b.recv_ready() == []

        await world.set_impairment(SetImpairment("core", "wan:core", {"loss": "100%"}, {}))
        await a.send(B + A + TYPE + bytes(50))
        await eventually(
            lambda: {port.name: port.tx.dropped for port in backend.snapshot().ports}["wan:core"] == 1,
            "it is lost",
        )

        await world.leave_end(LeaveEnd("core", "lan:core", SwitchPort("lan")))
        with pytest.raises(ConfigError, match="wan:core@core"):
            await world.remove_segment(RemoveSegment("wan", "switch"))
        await world.leave_end(LeaveEnd("core", "wan:core", SwitchPort("wan")))
        await world.remove_segment(RemoveSegment("core", "cable"))
        assert set(yard.ports()) == {"a", "b"}


async def test_another_way_between_switches(yard: Yard) -> None:
    """None of them waits until what it learned of the old way is too old."""
    world, backend = yard.world, yard.backend
    for switch in ("lan", "mid", "wan"):
        await world.add_segment(AddSegment(switch, "switch"))
    await join_switches(world, "one lan mid", "two mid wan")
    a, b = [await backend.open_channel(name, segment=at) for name, at in (("a", "lan"), ("b", "wan"))]

    async def talk() -> None:
        async with asyncio.timeout(10):
            for sender, receiver, frame in ((a, b, B + A), (b, a, A + B)):
                await sender.send(frame + TYPE + bytes(50))
                await receiver.recv()

    with a, b:
        await talk()
        await talk()
        await world.set_cable(SetCable("two", CableState(up=False), CableState()))
        await join_switches(world, "spare lan wan")
        await talk()
        for end, switch in (("lan:spare", "lan"), ("wan:spare", "wan")):
            await world.leave_end(LeaveEnd("spare", end, SwitchPort(switch)))
        await world.set_cable(SetCable("two", CableState(), CableState(up=False)))
        await talk()


async def test_a_join_of_a_switch_that_fails_leaves_nothing(yard: Yard) -> None:
    await yard.world.add_segment(AddSegment("core", "cable"))
    with pytest.raises(ConfigError, match="there is no segment 'lan'"):
        await yard.world.join_end(JoinEnd("core", "lan:core", SwitchPort("lan")))
    assert yard.ports() == {}


async def test_a_loop_that_nobody_saw_is_bounded(yard: Yard) -> None:
    """Lab files are checked for loops; guests and sockets may make one all the same."""
    world, backend = yard.world, yard.backend
    for switch in ("one", "two", "three"):
        await world.add_segment(AddSegment(switch, "switch"))
    await join_switches(world, "x one two", "y two three", "z three one", "w one two")
    with await backend.open_channel("a", segment="one") as a:
        await a.send(ALL + A + TYPE + bytes(50))
        await asyncio.sleep(1)
        started = time.monotonic()
        ports = backend.snapshot().ports
        assert time.monotonic() - started < 1, "who asks is answered"
        assert max(port.tx.frames_in for port in ports) > 1000, "it is a storm"
        assert all(port.tx.queued <= port.queue_frames for port in ports)
        for title in "zw":
            await world.set_cable(SetCable(title, CableState(up=False), CableState()))

        def still() -> bool:
            before = [port.tx.frames_in for port in backend.snapshot().ports]
            time.sleep(0.05)
            return [port.tx.frames_in for port in backend.snapshot().ports] == before

        await eventually(still, "the storm is over with the loop")
