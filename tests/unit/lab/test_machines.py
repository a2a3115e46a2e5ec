"""The VMs of a lab: their states, their records, and what a successor takes over; without QEMU (fake_qemu.py)."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.fake_qemu import fake_qemu
from tests.support.qemu_peers import eventually
from tests.support.run import wait_until
from vbackend.errors import ConfigError, PeerError, VbackendError
from vbackend.images import BuiltImage
from vbackend.lab import machines as module
from vbackend.lab.guest import Guest
from vbackend.lab.machines import Machines, VmNow, kill_qemus
from vbackend.lab.model import Nic, Vm
from vbackend.lab.picture import Machine
from vbackend.lab.process import find_qemus
from vbackend.lab.state import LabFolder
from vbackend.lab.vm import Card, Host
from vbackend.qemu.version import QemuVersion

NIC = Nic(mac="02:00:00:00:00:01")
OTHER = Nic(mac="02:00:00:00:00:02")


class Yard:
    def __init__(self, folder: LabFolder) -> None:
        self.folder = folder
        self.told: list[tuple[str, str]] = []
        self.booted: list[str] = []
        self.made: list[Machines] = []
        self.ended = asyncio.Event()

    def machines(self) -> Machines:

        def tell(name: str, now: VmNow) -> None:
            self.told.append((name, now.state))
            if now.state in ("stopped", "failed"):
                self.ended.set()

        self.made.append(Machines(self.folder, tell, self.booted.append))
        return self.made[-1]


@pytest_asyncio.fixture
async def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Yard]:
    host = Host(fake_qemu(tmp_path), QemuVersion(7, 2), "tcg")
    monkeypatch.setattr(module, "_find_host", lambda: host)
    folder = LabFolder("t", {"XDG_RUNTIME_DIR": str(tmp_path)})
    folder.make()
    folder.fill()
    found = Yard(folder)
    yield found
    for each in found.made:
        await each.leave()
    kill_qemus(folder)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "disk").write_bytes(b"QFI\xfb")
    return Machine(Vm(disk=str(tmp_path / "disk")), {"eth0": NIC})


async def test_start_and_stop(yard: Yard, machine: Machine) -> None:
    machines = yard.machines()
    await machines.start("a", machine)
    assert yard.told == [("a", "building"), ("a", "booting"), ("a", "running")]
    assert yard.booted == ["a"]
    record = yard.folder.read_vm("a")
    assert record is not None
    assert (record.machine, record.ready) == (machine, True)
    assert machines.guest("a").process.pid in find_qemus(yard.folder.root).values()
    await machines.stop("a")
    assert (machines.vms, yard.folder.vm_names(), find_qemus(yard.folder.root)) == ({}, [], {})
    await machines.stop("a")


@pytest.mark.parametrize(
    ("vm", "words"),
    [
        (Vm(disk="/no/disk"), "VM 'a': cannot read its disk /no/disk: No such file"),
        (Vm(image="no-such"), "VM 'a': there is no image recipe 'no-such'"),
        (Vm(kernel="/k", args=("-refuse",)), "-refuse: invalid option"),
    ],
)
async def test_a_start_that_fails_leaves_nothing(yard: Yard, vm: Vm, words: str) -> None:
    machines = yard.machines()
    with pytest.raises(VbackendError, match=words):
        await machines.start("a", Machine(vm))
    assert (machines.vms, yard.folder.vm_names(), find_qemus(yard.folder.root)) == ({}, [], {})


async def test_a_build_that_nobody_waits_for_any_more(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(_: str, progress: Callable[[str], None]) -> None:
        progress("unpacks")
        go_on.wait(20)
        progress("packs")
        loop.call_soon_threadsafe(done.set)

    go_on, done, loop = threading.Event(), asyncio.Event(), asyncio.get_running_loop()
    monkeypatch.setattr(module, "build_image", build)
    machines = yard.machines()
    starting = asyncio.create_task(machines.start("a", Machine(Vm(image="small"))))
    await eventually(
        lambda: "a" in machines.vms and machines.vms["a"].reason == "image small: unpacks", "it is told"
    )
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    go_on.set()
    await done.wait()
    assert machines.vms == {}


async def test_halted_and_started_again(yard: Yard, machine: Machine) -> None:
    machines = yard.machines()
    await machines.start("a", machine)
    with pytest.raises(ConfigError, match="VM 'a' runs already"):
        await machines.again("a")
    await machines.halt("a", "asked for")
    with pytest.raises(ConfigError, match=r"VM 'a' is stopped \(asked for\)"):
        machines.guest("a")
    await machines.again("a")
    assert machines.now("a").state == "running"
    with pytest.raises(ConfigError, match="there is no VM 'b'; there are a"):
        machines.now("b")


@pytest.mark.parametrize(
    ("end", "state", "words"),
    [("kill", "failed", "it ended by signal 9"), ("quit", "stopped", "the guest powered itself off")],
)
async def test_an_end_of_its_own(yard: Yard, machine: Machine, end: str, state: str, words: str) -> None:
    machines = yard.machines()
    await machines.start("a", machine)
    guest = machines.guest("a")
    await (guest.qmp.quit() if end == "quit" else asyncio.to_thread(guest.process.kill))
    await asyncio.wait_for(yard.ended.wait(), 10)
    assert machines.now("a").state == state
    assert machines.now("a").reason.startswith(words)


async def test_an_end_that_nobody_has_heard_of_yet(yard: Yard, machine: Machine) -> None:
    machines = yard.machines()
    await machines.start("a", machine)
    await machines.notice_ends()
    process = machines.guest("a").process
    assert not process.has_ended()
    process.kill()
    wait_until(process.has_ended, "it has ended")
    assert machines.now("a").state == "running"
    await machines.notice_ends()
    assert machines.now("a").state == "failed"
    assert process.has_ended()


async def test_cards_are_on_record(yard: Yard, machine: Machine) -> None:
    machines = yard.machines()
    await machines.start("a", machine)
    await machines.plug("a", "eth1", OTHER)
    with pytest.raises(VbackendError, match="virtio-net-none"):
        await machines.plug("a", "eth2", Nic(mac="02:00:00:00:00:03", model="virtio-net-none"))
    assert machines.now("a").machine.nics == {"eth0": NIC, "eth1": OTHER}
    record = yard.folder.read_vm("a")
    assert record is not None
    assert record.machine.nics == {"eth0": NIC, "eth1": OTHER}
    await machines.unplug("a", "eth0", NIC)
    assert machines.now("a").machine.nics == {"eth1": OTHER}
    await machines.halt("a", "")
    await machines.plug("a", "eth0", NIC)
    await machines.again("a")
    assert await machines.guest("a").cards() == {"eth0", "eth1"}


async def test_taken_over(yard: Yard, machine: Machine) -> None:
    first = yard.machines()
    await asyncio.gather(*(first.start(name, machine) for name in "abc"))
    await first.plug("a", "eth1", OTHER)
    pids = find_qemus(yard.folder.root)
    record = yard.folder.read_vm("b")
    assert record is not None
    yard.folder.write_vm(
        "b", record.model_copy(update={"ready": False})
    )  # as if it was killed before it was set up
    first.guest("c").process.kill()
    await first.leave()
    second = yard.machines()
    await second.take_over()
    assert list(second.vms) == ["a"]
    assert second.now("a").machine == Machine(machine.vm, {"eth0": NIC, "eth1": OTHER})
    assert second.guest("a").process.pid == pids[yard.folder.vm("a").pid]
    assert yard.folder.vm_names() == ["a"]
    wait_until(lambda: list(find_qemus(yard.folder.root)) == [yard.folder.vm("a").pid], "the others are gone")


async def test_a_record_says_more_than_there_is(yard: Yard, machine: Machine) -> None:
    first = yard.machines()
    await first.start("a", machine)
    record = yard.folder.read_vm("a")
    assert record is not None
    more = Machine(machine.vm, {**machine.nics, "eth1": OTHER})
    yard.folder.write_vm("a", record.model_copy(update={"machine": more}))
    await first.leave()
    second = yard.machines()
    await second.take_over()
    assert second.now("a").machine == machine


async def test_a_guest_that_ends_while_it_is_taken_over(
    yard: Yard, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def clean(guest: Guest, known: Mapping[str, Card]) -> set[str]:
        if guest.name == "a":
            guest.process.kill()
            await guest.process.wait()
        return await really_clean(guest, known)

    really_clean = Guest.clean_cards
    first = yard.machines()
    await asyncio.gather(*(first.start(name, machine) for name in "ab"))
    await first.leave()
    monkeypatch.setattr(Guest, "clean_cards", clean)
    second = yard.machines()
    await second.take_over()
    assert list(second.vms) == yard.folder.vm_names() == ["b"]


async def test_every_qemu_of_a_lab_is_killed(yard: Yard, machine: Machine) -> None:
    machines = yard.machines()
    await machines.start("a", machine)
    await machines.leave()
    assert kill_qemus(yard.folder) == 1
    assert find_qemus(yard.folder.root) == {}


async def test_a_guest_without_its_interface_fails(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "build_image", lambda *_, **__: (_ for _ in ()).throw(PeerError("no mirror")))
    with pytest.raises(PeerError, match="VM 'a': no mirror"):
        await yard.machines().start("a", Machine(Vm(image="small")))
    assert yard.folder.vm_names() == []


@pytest.fixture
def marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that a guest with an image writes a line to whenever it is set up."""
    built = BuiltImage("small", tmp_path, tmp_path / "vmlinuz", tmp_path / "initrd", "", 64, ())
    monkeypatch.setattr(module, "build_image", lambda *_, **__: built)
    return tmp_path / "marks"


def marking(marks: Path) -> Machine:
    return Machine(Vm(image="small", start=(f"echo x >>{marks}",)))


@pytest.mark.parametrize(("meanwhile", "times"), [("", 1), ("reset", 2), ("half set up", 2), ("ended", 1)])
async def test_what_became_of_a_guest_meanwhile(yard: Yard, marks: Path, meanwhile: str, times: int) -> None:
    first = yard.machines()
    await first.start("a", marking(marks))
    pid = first.guest("a").process.pid
    if meanwhile == "reset":  # with nobody to hear of it
        await first.guest("a").qmp.system_reset()
    elif meanwhile == "half set up":  # after a reset that the killed one heard of
        await first.guest("a").run("rm /run/vbackend-set-up", timeout=20)
    await first.leave()
    second = yard.machines()
    await second.take_over()
    assert second.now("a").state == "booting"
    assert marks.read_text() == "x\n", "not before it has its network"
    if meanwhile == "ended":
        second.guest("a").process.kill()
        await asyncio.wait_for(yard.ended.wait(), 10)
    await second.set_up_taken_over()
    await second.set_up_taken_over()
    assert second.now("a").state == ("failed" if meanwhile == "ended" else "running")
    assert marks.read_text() == "x\n" * times
    if meanwhile != "ended":
        assert second.guest("a").process.pid == pid
        with pytest.raises(PeerError, match="the guest was reset"):
            await second.guest("a").run("kill -KILL $PPID", timeout=20)
        await eventually(lambda: marks.read_text() == "x\n" * (times + 1), "it is set up again")


async def test_set_up_again_in_vain(yard: Yard, marks: Path) -> None:
    first = yard.machines()
    await first.start("a", Machine(Vm(image="small", start=(f"test ! -e {marks}; exit $?",))))
    marks.touch()
    await first.guest("a").qmp.system_reset()
    await first.leave()
    second = yard.machines()
    await second.take_over()
    await second.set_up_taken_over()
    assert second.now("a").state == "running"
    assert second.now("a").reason.startswith("after a reset: VM 'a': 'test ! -e")


async def test_a_guest_that_is_reset_is_set_up_again(yard: Yard, marks: Path) -> None:
    machines = yard.machines()
    await machines.start("a", marking(marks))
    for times in (2, 3):
        with pytest.raises(PeerError, match="the guest was reset"):
            await machines.guest("a").run("kill -KILL $PPID", timeout=20)
        again = [("a", "booting"), ("a", "running")] * times
        async with asyncio.timeout(20):
            while yard.told != [("a", "building"), *again]:  # noqa: ASYNC110 (of another task's state)
                await asyncio.sleep(0.01)
        assert marks.read_text() == "x\n" * times
    await machines.stop("a")
