"""One running VM, against a program that passes for QEMU (tests/support/fake_qemu.py)."""

import asyncio
import contextlib
import json
import os
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.fake_qemu import fake_qemu
from vbackend.errors import ConfigError, HostError, PeerError, VbackendError
from vbackend.lab import guest as module
from vbackend.lab.guest import Guest
from vbackend.lab.model import Nic, Vm
from vbackend.lab.names import VmPlace
from vbackend.lab.vm import Card, Host, vm_command, vmstate_file
from vbackend.qemu.version import QemuVersion


class Yard:
    """A folder where guests are started."""

    def __init__(self, folder: Path) -> None:
        self.host = Host(fake_qemu(folder), QemuVersion(7, 2), "tcg")
        self.place = VmPlace.of(folder, "r1")
        self.place.folder.mkdir(parents=True)
        self.folder = folder
        self.guests: list[Guest] = []

    def card(self, name: str, **fields: object) -> Card:
        nic = Nic.model_validate({"mac": "02:00:00:00:00:01", **fields})
        return Card(nic, self.folder / f"{name}.sock")

    async def start(self, vm: Vm, cards: dict[str, Card] | None = None) -> Guest:
        command = vm_command("r1", vm, cards or {}, self.place, self.host)
        guest = await Guest.start("r1", command, self.place, has_agent=vm.has_agent)
        self.guests.append(guest)
        return guest

    def sent(self) -> list[list[object]]:
        """What QMP was told."""
        return [json.loads(line) for line in (self.place.folder / "qmp.log").read_text().splitlines()]


IMAGE = Vm(image="small")  # the command is made without one: there is no guest to boot


@pytest_asyncio.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    found = Yard(tmp_path)
    yield found
    for guest in found.guests:
        await guest.stop()


async def test_set_up(yard: Yard, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "in" / "the guest"
    source.write_bytes(bytes(range(256)) * 2000)
    source.chmod(0o755)
    guest = await yard.start(IMAGE)
    await guest.set_up({}, {str(target): str(source)}, [f"echo done >{tmp_path}/mark"])
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_mode & 0o100
    assert (tmp_path / "mark").read_text() == "done\n"
    assert (await guest.run("echo out; exit 3", timeout=5)).status == 3
    assert "-pidfile" in yard.place.command.read_text()


@pytest.mark.parametrize(
    ("files", "commands", "words"),
    [
        ({}, ["echo no luck >&2; exit 3"], "'echo no luck >&2; exit 3': status 3: no luck"),
        ({}, ["exit 1"], "status 1: it wrote nothing"),
        ({"/proc/no": "source"}, [], "file /proc/no: status"),
        ({"/x": "absent"}, [], "cannot read .*absent: No such file"),
    ],
)
async def test_set_up_fails(
    yard: Yard, tmp_path: Path, files: dict[str, str], commands: list[str], words: str
) -> None:
    (tmp_path / "source").write_text("x")
    guest = await yard.start(IMAGE)
    with pytest.raises((PeerError, ConfigError), match=words):
        await guest.set_up({}, {key: str(tmp_path / name) for key, name in files.items()}, commands)


async def test_qemu_refuses_its_arguments(yard: Yard) -> None:
    with pytest.raises(VbackendError, match="it ended with status 1: fake-qemu: -refuse: invalid option"):
        await yard.start(Vm(disk="/d", args=("-refuse",)))


async def test_its_end_ends_every_wait(yard: Yard) -> None:
    guest = await yard.start(IMAGE)
    waiting = asyncio.create_task(guest.run("sleep 60", timeout=60))
    await guest.run("true", timeout=5)
    guest.process.kill()
    with pytest.raises(PeerError, match=r"it ended by signal 9|QEMU has ended"):
        await waiting


async def test_taken_over(yard: Yard) -> None:
    first = await yard.start(IMAGE)
    await first.run("true", timeout=5)
    await first.leave()
    await first.leave()
    yard.guests.clear()
    second = await Guest.adopt("r1", first.process.pid, yard.place, has_agent=True)
    assert second is not None
    yard.guests.append(second)
    assert (await second.run("echo again", timeout=5)).text == "again\n"
    assert await Guest.adopt("r1", 1, yard.place, has_agent=True) is None


async def test_cards(yard: Yard) -> None:
    guest = await yard.start(Vm(disk="/d"), {"eth0": yard.card("eth0")})
    assert await guest.cards() == {"eth0"}
    await guest.plug("eth1", yard.card("eth1"), yard.host)
    assert await guest.cards() == {"eth0", "eth1"}
    await guest.set_link("eth1", False)
    assert yard.sent()[-1] == ["set_link", {"name": "nic-eth1", "up": False}]
    await guest.unplug("eth1", yard.card("eth1"))
    assert await guest.cards() == {"eth0"}
    assert ["netdev_del", {"id": "net-eth1"}] in yard.sent()


async def test_a_card_that_cannot_be_plugged_in_leaves_nothing(yard: Yard) -> None:
    guest = await yard.start(Vm(disk="/d"))
    with pytest.raises(VbackendError, match="'virtio-net-none' is not a valid device"):
        await guest.plug(
            "eth1", yard.card("eth1", model="virtio-net-none", transport="vhost-user"), yard.host
        )
    assert yard.sent()[-2:] == [
        ["netdev_del", {"id": "net-eth1"}],
        ["chardev-remove", {"id": "net-eth1-socket"}],
    ]


async def test_a_guest_that_ends_while_a_card_is_plugged_in(yard: Yard) -> None:
    async def execute(name: str, *more: object, **options: object) -> object:
        if name == "device_add":
            guest.process.kill()
            await guest.process.wait()
        return await really(name, *more, **options)  # type: ignore[arg-type]

    guest = await yard.start(Vm(disk="/d"))
    really, guest.qmp.execute = guest.qmp.execute, execute  # type: ignore[assignment, method-assign]
    with pytest.raises(
        VbackendError, match=r"gone, device_add was not answered.*and what was plugged in stays"
    ):
        await guest.plug("eth1", yard.card("eth1"), yard.host)


async def test_half_a_card_is_removed(yard: Yard) -> None:
    guest = await yard.start(Vm(disk="/d"), {"eth0": yard.card("eth0")})
    known = {"eth0": yard.card("eth0"), "eth1": yard.card("eth1")}
    assert await guest.clean_cards(known) == {"eth0"}
    assert yard.sent()[-1] == ["netdev_del", {"id": "net-eth1"}]


async def test_snapshots(yard: Yard) -> None:
    guest = await yard.start(Vm(disk="/d"))
    with pytest.raises(HostError, match="no place for snapshots: install qemu-img"):
        await guest.save("clean")
    vmstate_file(yard.place).touch()
    await guest.save("clean")
    saved = next(words for command, words in yard.sent() if command == "snapshot-save")
    assert isinstance(saved, dict)
    assert (saved["tag"], saved["vmstate"], saved["devices"]) == ("clean", "vmstate", ["vmstate", "disk"])
    await guest.restore("clean")
    with pytest.raises(ConfigError, match="no snapshot 'other'; there are clean"):
        await guest.restore("other")
    with pytest.raises(HostError, match="snapshot-save broken: no space"):
        await guest.save("broken")
    await guest.save("spoiled")
    with pytest.raises(
        HostError, match="snapshot-load spoiled: no space; the guest stands still now, vm-restart"
    ):
        await guest.restore("spoiled")


async def test_a_snapshot_that_takes_too_long(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: object) -> None:
        """It is begun, and never concluded."""

    guest = await yard.start(Vm(disk="/d"))
    vmstate_file(yard.place).touch()
    monkeypatch.setattr(module, "_SNAPSHOT_S", 0.05)
    with monkeypatch.context() as patch:
        execute = guest.qmp.execute
        patch.setattr(
            guest.qmp,
            "execute",
            lambda name, *more: (nothing if "snapshot" in name else execute)(name, *more),
        )
        with pytest.raises(HostError, match=r"VM 'r1': snapshot-delete clean: not done in 0.05 s; take less"):
            await guest.save("clean")


async def test_a_socket_that_others_wait_at(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a QEMU that is stopped, or that talks to somebody else."""
    guest = await yard.start(Vm(disk="/d"))
    monkeypatch.setattr(module, "_MONITOR_S", 0.05)
    path = yard.folder / "busy.sock"
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        listener.bind(str(path))
        listener.listen(0)
        stack.enter_context(await module._connect(path, guest.process, "its port"))
        with pytest.raises(
            VbackendError, match=r"its port does not answer at .*busy.sock: Resource temporarily"
        ):
            await module._connect(path, guest.process, "its port")


async def test_what_runs_in_a_guest_that_is_set_back_fails(yard: Yard) -> None:
    guest = await yard.start(IMAGE)
    vmstate_file(yard.place).touch()
    await guest.save("clean")
    running = asyncio.create_task(guest.run("sleep 60", timeout=60))
    assert (await guest.run("cat", input=b"given", timeout=5)).text == "given"
    await guest.restore("clean")
    with pytest.raises(PeerError, match="set back to a snapshot"):
        await running
    assert (await guest.run("echo on", timeout=5)).text == "on\n"


async def test_no_agent(yard: Yard) -> None:
    guest = await yard.start(Vm(disk="/d"))
    with pytest.raises(ConfigError, match="no agent to run commands"):
        await guest.run("true", timeout=1)
    with pytest.raises(ConfigError, match="no agent to run commands"):
        guest.reach_agent()
    await guest.reset()
    assert yard.sent()[-1] == ["system_reset", {}]


async def test_a_path_that_is_no_text(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"gr\xfcn")
    folder.mkdir()
    yard = Yard(folder)
    guest = await yard.start(Vm(disk="/d"))
    await guest.stop()
    assert b"gr\xfcn" in yard.place.command.read_bytes()


async def test_stop(yard: Yard) -> None:
    guest = await yard.start(IMAGE)
    await guest.stop()
    assert await guest.process.wait() == "it ended with status 0"
    await guest.stop()
    shutil.rmtree(yard.place.folder)
    assert guest.last_words() == ""
