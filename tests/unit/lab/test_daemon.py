"""A lab's daemon: becomes what it is told, undoes what fails, takes over what it finds, leaves nothing at `down`."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import JsonValue

from tests.support.qemu_peers import eventually
from tests.unit.lab.lab_yard import Yard, two
from vbackend.control.client import ControlClient
from vbackend.errors import ConfigError, ControlError, HostError
from vbackend.images import BuiltImage
from vbackend.lab import machines
from vbackend.lab.daemon import LabDaemon, live
from vbackend.lab.guest import Guest
from vbackend.lab.model import Lab
from vbackend.lab.process import find_qemus
from vbackend.lab.state import LabFolder, LabLock, LabRecord
from vbackend.lab.status import LabStatus
from vbackend.lab.vm import vmstate_file


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    found = Yard(tmp_path, monkeypatch)
    yield found
    found.clean()


def json(lab: Lab) -> JsonValue:
    found: dict[str, JsonValue] = lab.model_dump(mode="json")
    return found


async def connected(daemon: LabDaemon) -> LabStatus:
    """The status, once every end has a peer."""

    def all_connected() -> bool:
        return all(end.connected for link in daemon.status().links for end in link.ends)

    await eventually(all_connected, "every end has a peer")
    return daemon.status()


async def test_up_apply_down(yard: Yard) -> None:
    async with yard.daemon() as (daemon, client):
        lab = two(yard.disk)
        assert await client.execute("query-lab") is None
        await client.execute("lab-apply", {"lab": json(lab), "file": "/two.toml"})
        found = await connected(daemon)
        assert {vm.name: (vm.state, [nic.link for nic in vm.nics]) for vm in found.vms} == {
            "a": ("running", ["core"]),
            "b": ("running", ["core"]),
        }
        assert [[end.name for end in link.ends] for link in found.links] == [["a:eth0", "b:eth0"]]
        assert await client.execute("query-lab") == json(lab)
        assert LabStatus.model_validate(await client.execute("lab-status")) == daemon.status()
        assert yard.folder.read() == LabRecord(file="/two.toml", running=lab)

        grown = two(yard.disk, '[switch.lan]\nports = ["b:eth1"]\n', "up = false\nrate = '1M'")
        planned = await client.execute("lab-plan", {"lab": json(grown)})
        assert isinstance(planned, list)
        assert "+ nic b:eth1 (virtio-net-pci, stream)" in planned
        pids = find_qemus(yard.folder.root)
        await client.execute("lab-apply", {"lab": json(grown)})
        assert await client.execute("lab-plan", {"lab": json(grown)}) == []
        assert find_qemus(yard.folder.root) == pids
        assert {link.title: link.up for link in daemon.status().links} == {"core": False, "lan/b:eth1": True}
        assert yard.folder.read().file == "/two.toml"

        await client.execute("lab-down")
    assert not yard.folder.root.exists()
    assert find_qemus(yard.folder.root) == {}


async def test_events(yard: Yard) -> None:
    async with yard.daemon() as (_, client):
        events = client.events()
        await client.execute("lab-apply", {"lab": json(two(yard.disk))})
        seen = []
        async for event in events:
            assert isinstance(event["data"], dict)
            seen.append((event["event"], event["data"].get("step"), event["data"].get("state")))
            if ("VM_STATE", None, "running") in seen and seen[-1][0] == "LAB_PROGRESS":
                break
        assert ("LAB_PROGRESS", "+ cable core", "begin") in seen
        assert ("LAB_PROGRESS", "+ cable core", "done") in seen
        await client.execute("lab-down")


async def test_a_failing_apply_is_undone(yard: Yard) -> None:
    async with yard.daemon() as (daemon, client):
        lab = two(yard.disk)
        await client.execute("lab-apply", {"lab": json(lab)})
        broken = two(
            yard.disk, f'[vm.c]\ndisk = "{yard.disk}"\nargs = ["-refuse"]\n[vm.c.nic.eth0]\n', "up = false"
        )
        with pytest.raises(
            ControlError, match=r"step '\+ vm c .*invalid option; what was done before is undone"
        ):
            await client.execute("lab-apply", {"lab": json(broken)})
        assert daemon.planned(lab) == []
        assert daemon.status().links[0].up
        assert yard.folder.read() == LabRecord(running=lab)
        with pytest.raises(ConfigError, match="this is lab 'two', not 'other'"):
            await client.execute("lab-apply", {"lab": json(lab.model_copy(update={"name": "other"}))})
        await client.execute("lab-down")


async def test_a_first_lab_that_fails_ends_the_daemon(yard: Yard) -> None:
    async with yard.daemon() as (daemon, client):
        broken = two(yard.disk, f'[vm.c]\ndisk = "{yard.disk}"\nargs = ["-refuse"]\n')
        with pytest.raises(ControlError, match="invalid option"):
            await client.execute("lab-apply", {"lab": json(broken)})
        assert daemon.status().ending
    assert not yard.folder.root.exists()


IMAGE = BuiltImage("small", Path("/"), Path("/vmlinuz"), Path("/initrd"), "", 64, ())
SLOW = "[vm.c]\nimage = 'small'\n"


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Images take until this is set."""
    end = threading.Event()
    monkeypatch.setattr(machines, "build_image", lambda *_, **__: end.wait(20))
    return end


def builds(daemon: LabDaemon) -> bool:
    """Whether everything but `SLOW` is there."""
    states = {name: now.state for name, now in daemon._world.machines.vms.items()}
    return states == {"a": "running", "b": "running", "c": "building"}


async def test_a_client_that_leaves_has_its_lab_undone(yard: Yard, build: threading.Event) -> None:
    async with yard.daemon() as (daemon, _):
        async with ControlClient(str(yard.folder.control)) as leaving:
            applying = asyncio.create_task(leaving.execute("lab-apply", {"lab": json(two(yard.disk, SLOW))}))
            await eventually(lambda: builds(daemon), "all but the image is there")
            applying.cancel()
        await asyncio.gather(applying, return_exceptions=True)
        build.set()
        await eventually(lambda: not yard.folder.root.exists(), "the lab is gone")
    assert not yard.folder.root.exists()
    assert find_qemus(yard.folder.root) == {}


async def test_the_next_client_goes_on_when_the_first_one_leaves(yard: Yard, build: threading.Event) -> None:
    async with yard.daemon() as (daemon, client):
        async with ControlClient(str(yard.folder.control)) as leaving:
            applying = asyncio.create_task(leaving.execute("lab-apply", {"lab": json(two(yard.disk, SLOW))}))
            await eventually(lambda: builds(daemon), "all but the image is there")
            waiting = asyncio.create_task(client.execute("lab-apply", {"lab": json(two(yard.disk))}))
            await asyncio.sleep(0.1)
            applying.cancel()
        await asyncio.gather(applying, return_exceptions=True)
        build.set()
        await waiting
        assert [vm.name for vm in daemon.status().vms] == ["a", "b"]
        assert not daemon.status().ending
        await client.execute("lab-down")


@pytest.fixture
def booting(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set when a guest with an agent boots, which takes long."""

    async def boot(guest: Guest, *_: object) -> None:
        begun.set()
        await guest.run("sleep 60", timeout=60)

    begun = asyncio.Event()
    monkeypatch.setattr(machines, "build_image", lambda *_, **__: IMAGE)
    monkeypatch.setattr(Guest, "set_up", boot)
    return begun


async def test_told_to_end_while_a_guest_boots(yard: Yard, booting: asyncio.Event) -> None:
    async with asyncio.timeout(20):
        async with yard.daemon() as (_, client):
            applying = asyncio.create_task(client.execute("lab-apply", {"lab": json(two(yard.disk, SLOW))}))
            await booting.wait()
        with pytest.raises(ControlError):
            await applying
    assert not yard.folder.root.exists()
    assert find_qemus(yard.folder.root) == {}


async def test_down_while_a_guest_boots(yard: Yard, booting: asyncio.Event) -> None:
    """Nobody waits for what is not wanted any more, and whoever waits to change something hears why it is not done."""
    async with asyncio.timeout(20), yard.daemon() as (daemon, client):
        await daemon.apply(two(yard.disk), None)
        first, second = (asyncio.create_task(daemon.apply(two(yard.disk, more), None)) for more in (SLOW, ""))
        await booting.wait()
        await client.execute("lab-down")
        for each in (first, second):
            with pytest.raises(HostError, match="lab 'two' is being taken down; try again"):
                await each
            assert each.cancelling() == 0
    assert not yard.folder.root.exists()
    assert find_qemus(yard.folder.root) == {}


async def test_a_client_that_leaves_while_its_vm_stops(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    async def stop(guest: Guest) -> None:
        stopping.set()
        await guest.qmp.quit()
        await asyncio.sleep(0.5)
        await really_stop(guest)

    stopping, really_stop = asyncio.Event(), Guest.stop
    three = two(yard.disk, f'[vm.c]\ndisk = "{yard.disk}"\n')
    async with yard.daemon() as (daemon, client):
        await client.execute("lab-apply", {"lab": json(three)})
        monkeypatch.setattr(Guest, "stop", stop)
        async with ControlClient(str(yard.folder.control)) as leaving:
            applying = asyncio.create_task(leaving.execute("lab-apply", {"lab": json(two(yard.disk))}))
            await stopping.wait()
            applying.cancel()
        await asyncio.gather(applying, return_exceptions=True)
        await eventually(lambda: not daemon.status().changing, "the apply is over")
        assert [vm.state for vm in daemon.status().vms] == ["running"] * 3
        assert {vm.pid for vm in daemon.status().vms} == set(find_qemus(yard.folder.root).values())
        await client.execute("lab-down")


async def test_a_lab_that_is_going_down_takes_no_more(yard: Yard) -> None:
    async with yard.daemon() as (daemon, client):
        await client.execute("lab-apply", {"lab": json(two(yard.disk))})
        down = asyncio.create_task(daemon.down())
        await asyncio.sleep(0)
        with pytest.raises(HostError, match="lab 'two' is being taken down; try again"):
            await daemon.apply(two(yard.disk), None)
        with pytest.raises(HostError, match="lab 'two' is being taken down; try again"):
            await daemon.set_cable("core", False, None, None)
        await down


async def test_what_was_taken_over_goes_with_a_first_lab_that_fails(yard: Yard) -> None:
    async with yard.daemon() as (_, client):
        await client.execute("lab-apply", {"lab": json(two(yard.disk))})
    yard.folder.write(LabRecord())  # as if killed before its first lab was complete
    async with yard.daemon() as (_, client):
        broken = two(yard.disk, f'[vm.c]\ndisk = "{yard.disk}"\nargs = ["-refuse"]\n')
        with pytest.raises(ControlError, match="invalid option"):
            await client.execute("lab-apply", {"lab": json(broken)})
    assert not yard.folder.root.exists()
    assert find_qemus(yard.folder.root) == {}


async def test_a_successor_takes_over(yard: Yard) -> None:
    lab = two(yard.disk)
    async with yard.daemon() as (_, client):
        await client.execute("lab-apply", {"lab": json(lab)})
    pids = find_qemus(yard.folder.root)
    assert len(pids) == 2
    async with yard.daemon() as (daemon, client):
        assert daemon.planned(None) == ["+ cable core", "+ core: a:eth0", "+ core: b:eth0"]
        await client.execute("lab-apply")
        await connected(daemon)
        assert find_qemus(yard.folder.root) == pids
    async with yard.daemon() as (daemon, client):
        broken = two(yard.disk, f'[vm.c]\ndisk = "{yard.disk}"\nargs = ["-refuse"]\n')
        with pytest.raises(ControlError, match="invalid option"):
            await client.execute("lab-apply", {"lab": json(broken)})
        await connected(daemon)  # what ran before has its network again
        assert daemon.planned(lab) == []
        assert find_qemus(yard.folder.root) == pids
        await client.execute("lab-down")


async def test_one_daemon_runs_a_lab(yard: Yard) -> None:
    async with yard.daemon() as (_, client):
        with pytest.raises(ConfigError, match="lab 'two' runs already, in process"):
            await LabDaemon("two", yard.environ).serve()
        await client.execute("lab-apply", {"lab": json(two(yard.disk))})
        await client.execute("lab-down")


async def test_commands_of_vms_and_cables(yard: Yard) -> None:
    async with yard.daemon() as (daemon, client):
        await client.execute("lab-apply", {"lab": json(two(yard.disk))})
        await client.execute("vm-stop", {"vm": "b"})
        assert [vm.state for vm in daemon.status().vms] == ["running", "stopped"]
        await client.execute("cable-set", {"cable": "core", "up": False, "back": {"rate": "1M"}})
        assert [vm.state for vm in daemon.status().vms] == ["running", "stopped"]
        (link,) = daemon.status().links
        assert (link.up, [end.impair for end in link.ends]) == (False, [{"rate": "1M"}, {}])
        await client.execute("cable-set", {"cable": "core", "up": True})
        assert [end.impair for end in daemon.status().links[0].ends] == [{"rate": "1M"}, {}]
        await client.execute("cable-set", {"cable": "core", "back": {}})
        assert [end.impair for end in daemon.status().links[0].ends] == [{}, {}]
        with pytest.raises(ConfigError, match="there is no cable 'x'; there are core"):
            await client.execute("cable-set", {"cable": "x", "up": False})
        with pytest.raises(ConfigError, match="cable 'core': burst is of no use without a rate"):
            await client.execute("cable-set", {"cable": "core", "back": {"burst": "9k"}})
        await client.execute("vm-start", {"vm": "b"})
        await client.execute("vm-restart", {"vm": "b"})
        await connected(daemon)
        with pytest.raises(ConfigError, match="no agent"):
            await client.execute("vm-exec", {"vm": "a", "command": "true"})
        with pytest.raises(ConfigError, match="no agent to run commands"):
            await client.execute("vm-attach", {"vm": "a"})
        with pytest.raises(ConfigError, match="there is no VM 'x'; there are a, b"):
            await client.execute("vm-stop", {"vm": "x"})
        with pytest.raises(ControlError, match="no place for snapshots"):
            await client.execute("vm-save", {"vm": "a", "tag": "t"})
        with pytest.raises(ControlError, match="no place for snapshots"):
            await client.execute("lab-save", {"tag": "t"})
        for vm in ("a", "b"):
            vmstate_file(yard.folder.vm(vm)).touch()
        await client.execute("lab-save", {"tag": "t"})
        told: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(daemon._world, "tell_carriers", told.append)
            await client.execute("lab-restore", {"tag": "t"})
        assert told == ["a", "b"], "QEMU has forgotten who had a carrier"
        with pytest.raises(ConfigError, match="no snapshot 'x'; there are t"):
            await client.execute("lab-restore", {"tag": "x"})
        await client.execute("vm-stop", {"vm": "a"})
        await client.execute("lab-apply")
        assert [vm.state for vm in daemon.status().vms] == ["running", "running"]
        await client.execute("lab-down")


async def test_cables_of_switches(yard: Yard) -> None:
    switches = "[switch.lan]\nports = ['a:eth1']\n[switch.wan]\nports = ['b:eth1']\n"
    ends = "[[cable]]\nends = ['lan:{0}', 'wan:{0}']\nname = '{0}'\n"
    trunk, spare = ends.format("trunk"), ends.format("spare") + "up = false\n"
    async with yard.daemon() as (daemon, client):
        await client.execute("lab-apply", {"lab": json(two(yard.disk))})
        full = json(two(yard.disk, switches + trunk + spare))
        planned = await client.execute("lab-plan", {"lab": full})
        assert isinstance(planned, list)
        assert {"+ cable trunk", "+ trunk: lan:trunk", "+ trunk: wan:trunk", "+ cable spare (down)"} <= set(
            planned
        )
        await client.execute("lab-apply", {"lab": full})
        assert await client.execute("lab-plan", {"lab": full}) == []
        links = {link.title: link for link in (await connected(daemon)).links}
        assert [end.name for end in links["trunk"].ends] == ["lan:trunk", "wan:trunk"]
        with pytest.raises(ConfigError, match="cable 'spare' closes a loop of switches"):
            await client.execute("cable-set", {"cable": "spare", "up": True})
        for cable, up in (("trunk", False), ("spare", True)):
            await client.execute("cable-set", {"cable": cable, "up": up, "back": {"loss": "1%"}})
        links = {link.title: link for link in daemon.status().links}
        assert {title: link.up for title, link in links.items()}.items() >= {
            "trunk": False,
            "spare": True,
        }.items()
        assert links["spare"].ends[0].impair == {"loss": "1%"}
        await client.execute("lab-apply", {"lab": json(two(yard.disk, switches))})
        assert {link.title for link in daemon.status().links} == {"core", "lan/a:eth1", "wan/b:eth1"}
        assert not [port.name for port in daemon._backend.snapshot().ports if "@" in port.name]
        await client.execute("lab-down")


async def test_in_the_foreground(yard: Yard) -> None:
    daemon = LabDaemon("two", yard.environ)
    serving = asyncio.create_task(daemon.serve(wanted=two(yard.disk), file=None))
    await eventually(lambda: yard.folder.read().running is not None, "the lab runs")
    daemon.end()
    await serving
    assert not yard.folder.root.exists()


async def test_the_end_in_the_foreground_waits_for_no_guest(yard: Yard, build: threading.Event) -> None:
    daemon = LabDaemon("two", yard.environ)
    serving = asyncio.create_task(daemon.serve(wanted=two(yard.disk, SLOW), file=None))
    await eventually(lambda: builds(daemon), "all but the image is there")
    daemon.end()
    await serving
    assert not build.is_set()
    build.set()
    assert not yard.folder.root.exists()
    assert find_qemus(yard.folder.root) == {}


@pytest.mark.usefixtures("in_terminal")
@pytest.mark.parametrize(
    ("foreground", "number", "ends"),
    [
        (True, signal.SIGHUP, True),
        (True, signal.SIGINT, True),
        (False, signal.SIGHUP, False),
        (False, signal.SIGTERM, True),
    ],
)
async def test_signals(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, foreground: bool, number: signal.Signals, ends: bool
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", yard.environ["XDG_RUNTIME_DIR"])
    living = asyncio.create_task(live("two", None, wanted=two(yard.disk) if foreground else None))
    async with asyncio.timeout(20):
        await eventually(yard.folder.control.exists, "the daemon serves")
        async with ControlClient(str(yard.folder.control)) as client:
            await client.execute("lab-status")
            os.kill(os.getpid(), number)
            if not ends:
                await client.execute("lab-status")
                os.kill(os.getpid(), signal.SIGTERM)
        await living
    assert not yard.folder.root.exists(), "nothing ran to its end, or the end took it down"
    assert find_qemus(yard.folder.root) == {}


async def test_a_guest_that_was_reset_is_up_when_up_returns(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "build_image", lambda *_, **__: IMAGE)
    marks = yard.folder.root.parent / "marks"
    lab = two(yard.disk, f"[vm.c]\nimage = 'small'\nstart = ['echo x >>{marks}']\n")
    async with yard.daemon() as (daemon, client):
        await client.execute("lab-apply", {"lab": json(lab)})
        await daemon._world.machines.guest("c").qmp.system_reset()
    async with yard.daemon() as (daemon, client):
        assert {vm.name: vm.state for vm in daemon.status().vms}["c"] == "booting"
        await client.execute("lab-apply")
        assert {vm.state for vm in daemon.status().vms} == {"running"}
        assert marks.read_text() == "x\nx\n"
        await client.execute("lab-down")


async def test_the_lock_is_gone_with_the_daemon(yard: Yard) -> None:
    async with yard.daemon() as (_, client):
        await client.execute("lab-apply", {"lab": json(two(yard.disk))})
        assert LabLock.holder(LabFolder("two", yard.environ)) is not None
    assert LabLock.holder(LabFolder("two", yard.environ)) is None
