"""The VMs of a running lab: started, taken over, watched, stopped. The half of the world (world.py) that is QEMU's.

    building ──► booting ──► running ──► stopped (asked for, or the guest powered itself off)
        └───────────┴──────────► failed (and why)

Rule: a VM's record is on disk before its QEMU exists, and its QEMU is gone before its record is.
"""

import asyncio
import contextlib
import logging
import os
import select
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from vbackend.errors import ConfigError, HostError, PeerError, VbackendError, one_line
from vbackend.images import BuiltImage, build_image
from vbackend.lab.guest import Guest
from vbackend.lab.model import Nic
from vbackend.lab.names import port_socket
from vbackend.lab.picture import Machine
from vbackend.lab.process import find_qemus
from vbackend.lab.state import LabFolder, VmRecord
from vbackend.lab.status import VmState
from vbackend.lab.vm import Card, Host, vm_command, vmstate_file
from vbackend.qemu.accel import accelerator
from vbackend.qemu.version import QEMU, qemu_version

__all__ = ["Machines", "VmNow", "kill_qemus"]

log = logging.getLogger(__name__)

_GRACE_S: Final = 5.0  # for the kernel to take a killed process away
_SNAPSHOT_SIZE: Final = "1G"  # of the empty disk; machine states go behind it


@dataclass(frozen=True, slots=True)
class VmNow:
    """How a VM is."""

    machine: Machine
    state: VmState
    reason: str = ""  # why it is stopped or failed; what is being built
    since: float = 0.0  # seconds since the epoch, of QEMU's start
    guest: Guest | None = None  # while QEMU runs


Told = Callable[[str, VmNow], None]  # a VM's name, and how it is from now on


class Machines:
    """All VMs of a lab. `on_change` hears of every change; `on_boot` is called when QEMU runs, before it is set up."""

    def __init__(self, folder: LabFolder, on_change: Told, on_boot: Callable[[str], None]) -> None:
        self._folder: Final = folder
        self._tell: Final = on_change
        self._on_boot: Final = on_boot
        self._host: asyncio.Task[Host] | None = None
        self.vms: Final[dict[str, VmNow]] = {}
        self._watchers: Final[dict[str, asyncio.Task[None]]] = {}
        self._resets: Final[dict[str, asyncio.Task[None]]] = {}
        self._unasked: Final[set[str]] = set()  # taken over: nobody knows whether they were reset meanwhile

    def guest(self, name: str) -> Guest:
        """A VM's guest. ConfigError: there is no such VM, or it does not run."""
        now = self.now(name)
        if now.guest is None:
            why = f" ({now.reason})" if now.reason else ""
            raise ConfigError(f"VM {name!r} is {now.state}{why}; `vbackend up` starts it again")
        return now.guest

    def now(self, name: str) -> VmNow:
        """ConfigError: there is no such VM."""
        try:
            return self.vms[name]
        except KeyError:
            raise ConfigError(f"there is no VM {name!r}; there are {', '.join(self.vms) or 'none'}") from None

    async def start(self, name: str, machine: Machine) -> None:
        """Build, boot and set up. When it fails nothing is left of the VM."""
        try:
            await self._start(name, machine)
        except BaseException:
            await self.stop(name)
            self.vms.pop(name, None)
            raise

    async def stop(self, name: str) -> None:
        """End it and forget it; nothing when it is not there."""
        await self.halt(name, "stopped")
        self.vms.pop(name, None)
        self._folder.remove_vm(name)

    async def halt(self, name: str, reason: str) -> None:
        """End QEMU and keep the VM, its logs too."""
        for watchers in (self._watchers, self._resets):
            if (watcher := watchers.pop(name, None)) is not None:
                watcher.cancel()
        self._unasked.discard(name)
        now = self.vms.get(name)
        if now is not None and now.guest is not None:
            await now.guest.stop()
            self._set(name, replace(now, state="stopped", reason=reason, guest=None))

    async def again(self, name: str) -> None:
        """Start a VM that has stopped or failed. When it fails it stays, as failed."""
        now = self.now(name)
        if now.guest is not None:
            raise ConfigError(f"VM {name!r} runs already")
        try:
            await self._start(name, now.machine)
        except BaseException as error:
            await self.halt(name, "")
            self._set(name, replace(now, state="failed", reason=one_line(error)))
            raise

    async def plug(self, name: str, nic: str, config: Nic) -> None:
        """Add a card to a VM; one that does not run has it from its next start on."""
        now = self.now(name)
        machine = Machine(now.machine.vm, {**now.machine.nics, nic: config})
        self._note(name, replace(now, machine=machine), ready=True)
        if now.guest is not None:
            try:
                await now.guest.plug(nic, self._card(name, nic, config), await self.host())
            except BaseException:
                self._note(name, now, ready=True)
                raise
        self._set(name, replace(self.vms[name], machine=machine))
        if now.guest is not None:
            self._on_boot(name)

    async def unplug(self, name: str, nic: str, config: Nic) -> None:
        """Take a card out."""
        now = self.now(name)
        if now.guest is not None:
            await now.guest.unplug(nic, self._card(name, nic, config))
        machine = Machine(
            now.machine.vm, {each: kept for each, kept in now.machine.nics.items() if each != nic}
        )
        self._note(name, replace(now, machine=machine), ready=True)
        self._set(name, replace(self.vms[name], machine=machine))

    async def take_over(self) -> None:
        """Take over the guests that an earlier daemon has left; end those that cannot be.

        A guest that was not set up to its end is ended: it is started again by whoever wants it. The others boot, for
        all that is known, until `set_up_taken_over`.
        """
        running = find_qemus(self._folder.vms)
        names = self._folder.vm_names()
        await asyncio.gather(
            *(self._take_over(name, running.pop(self._folder.vm(name).pid, None)) for name in names)
        )
        _kill(running)

    async def set_up_taken_over(self) -> None:
        """Wait for the agents of guests that were taken over; those that were reset meanwhile are set up again.

        When they have their network, which their commands may need.
        """
        await asyncio.gather(*map(self._ask, list(self._unasked)))

    async def notice_ends(self) -> None:
        """Wait until of every VM that has ended by now it is known."""
        ended = [
            watcher
            for name, watcher in self._watchers.items()
            if (guest := self.vms[name].guest) is not None and guest.process.has_ended()
        ]
        if ended:
            await asyncio.wait(ended)

    async def leave(self) -> None:
        """Hang up; all VMs run on."""
        for watcher in (*self._watchers.values(), *self._resets.values()):
            watcher.cancel()
        await asyncio.gather(*(now.guest.leave() for now in self.vms.values() if now.guest is not None))

    async def host(self) -> Host:
        """The QEMU here. HostError: there is none."""
        if self._host is None:
            self._host = asyncio.create_task(asyncio.to_thread(_find_host), name="look for QEMU")
        try:
            return await asyncio.shield(self._host)
        except HostError:
            self._host = None
            raise

    async def _start(self, name: str, machine: Machine) -> None:
        vm = machine.vm
        now = VmNow(machine, "building", since=time.time())
        self._set(name, now)
        host = await self.host()
        image = None if vm.image is None else await self._build(name, vm.image, now)
        head = b"" if vm.disk is None else await asyncio.to_thread(_head, name, vm.disk)
        self._note(name, now, ready=False)
        place = self._folder.vm(name)
        snapshots = image is not None and await _make_vmstate(vmstate_file(place))
        cards = {nic: self._card(name, nic, config) for nic, config in machine.nics.items()}
        command = vm_command(name, vm, cards, place, host, image=image, disk_head=head, snapshots=snapshots)
        guest = await Guest.start(name, command, place, has_agent=vm.has_agent)
        now = replace(now, state="booting", guest=guest)
        self._set(name, now)
        self._on_boot(name)
        if vm.has_agent:
            await guest.set_up(cards, vm.files, vm.start)
        self._note(name, now, ready=True)
        self._run(name, replace(now, state="running"))
        if vm.has_agent:
            self._await_resets(name, guest)

    async def _build(self, name: str, recipe: str, now: VmNow) -> BuiltImage:
        loop = asyncio.get_running_loop()

        def show(text: str) -> None:
            if self.vms.get(name) is shown[0]:  # else nobody waits for it any more
                shown[0] = replace(now, reason=f"image {recipe}: {text}")
                self._set(name, shown[0])

        def say(text: str) -> None:
            loop.call_soon_threadsafe(show, text)

        shown = [now]

        try:
            return await asyncio.to_thread(build_image, recipe, progress=say)
        except asyncio.CancelledError:
            log.info("image %s: its build is not stopped, and waited for at the end", recipe)
            raise
        except VbackendError as error:
            raise type(error)(f"VM {name!r}: {error}") from None

    async def _take_over(self, name: str, pid: int | None) -> None:
        record, guest = self._folder.read_vm(name), None
        place, there = self._folder.vm(name), set[str]()
        if pid is not None and record is not None and record.ready:
            guest = await Guest.adopt(name, pid, place, has_agent=record.machine.vm.has_agent)
        if guest is not None and record is not None:
            cards = {nic: self._card(name, nic, config) for nic, config in record.machine.nics.items()}
            try:
                there = await guest.clean_cards(cards)
            except VbackendError as error:
                log.warning("VM %s: %s", name, one_line(error))
                await guest.leave()
                guest = None
        if guest is None or record is None:
            if pid is not None:
                log.warning("VM %s: it cannot be taken over, so it is ended", name)
                await asyncio.to_thread(_kill, {place.pid: pid})
            self._folder.remove_vm(name)
            return
        nics = {nic: config for nic, config in record.machine.nics.items() if nic in there}
        now = VmNow(Machine(record.machine.vm, nics), "running", since=record.since, guest=guest)
        if guest.agent is not None:
            self._unasked.add(name)
            now = replace(now, state="booting", reason="taken over")
        self._run(name, now)

    def _run(self, name: str, now: VmNow) -> None:
        self._set(name, now)
        self._watchers[name] = asyncio.create_task(self._watch(name, now), name=f"watch {name}")

    def _await_resets(self, name: str, guest: Guest) -> None:
        """A guest that was reset has forgotten what it was told, so it is told again; until it is gone."""

        async def again() -> None:
            with contextlib.suppress(PeerError):
                while True:
                    await guest.wait_reset()
                    self._set(name, replace(self.vms[name], state="booting", reason="it was reset"))
                    await self._set_up_again(name, guest)

        self._resets[name] = asyncio.create_task(again(), name=f"resets of {name}")

    async def _set_up_again(self, name: str, guest: Guest) -> None:
        machine, why = self.vms[name].machine, ""
        cards = {nic: self._card(name, nic, config) for nic, config in machine.nics.items()}
        try:
            await guest.set_up(cards, machine.vm.files, machine.vm.start)
        except (VbackendError, TimeoutError) as error:
            why = f"after a reset: {one_line(error)}"
            log.warning("VM %s: %s", name, why)
        if self.vms[name].guest is guest:
            self._set(name, replace(self.vms[name], state="running", reason=why))

    async def _ask(self, name: str) -> None:
        if (guest := self.vms[name].guest) is not None:
            await self._set_up_again(name, guest)
            self._await_resets(name, guest)
        self._unasked.discard(name)

    async def _watch(self, name: str, now: VmNow) -> None:
        assert now.guest is not None, "only of guests that run"
        why = await now.guest.process.wait()
        state: VmState = "failed"
        if why.endswith("status 0"):
            state, why = "stopped", "the guest powered itself off"
        elif words := now.guest.last_words():
            why = f"QEMU: {why}: {words}"
        await now.guest.leave()
        self._set(name, replace(self.vms[name], state=state, reason=why, guest=None))
        del self._watchers[name]

    def _card(self, vm: str, nic: str, config: Nic) -> Card:
        return Card(config, port_socket(self._folder.root, f"{vm}:{nic}"))

    def _note(self, name: str, now: VmNow, *, ready: bool) -> None:
        self._folder.write_vm(name, VmRecord(machine=now.machine, ready=ready, since=now.since))

    def _set(self, name: str, now: VmNow) -> None:
        self.vms[name] = now
        self._tell(name, now)


def kill_qemus(folder: LabFolder) -> int:
    """SIGKILL to every QEMU of a lab, and wait until they are gone. Under the lab's lock. Returns how many."""
    found = find_qemus(folder.root)
    _kill(found)
    return len(found)


def _kill(found: Mapping[Path, int]) -> None:
    for pid in found.values():
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(pid)
            try:
                signal.pidfd_send_signal(fd, signal.SIGKILL)
                select.select([fd], [], [], _GRACE_S)
            finally:
                os.close(fd)


def _find_host() -> Host:
    path = shutil.which(QEMU)
    version = qemu_version(QEMU)  # says what to install when there is none
    assert path is not None, "it has just told its version"
    return Host(path, version, accelerator(QEMU))


def _head(name: str, disk: str) -> bytes:
    try:
        with Path(disk).open("rb") as file:
            return file.read(4)
    except OSError as error:
        raise ConfigError(f"VM {name!r}: cannot read its disk {disk}: {error.strerror}") from None


async def _make_vmstate(path: Path) -> bool:
    """An empty disk for snapshots. False: there is no qemu-img, so there will be no snapshots."""
    path.unlink(missing_ok=True)
    try:
        child = await asyncio.create_subprocess_exec(
            *("qemu-img", "create", "-q", "-f", "qcow2", str(path), _SNAPSHOT_SIZE),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError:
        return False
    _, said = await child.communicate()
    if child.returncode != 0:
        raise HostError(f"qemu-img cannot make {path}: {said.decode(errors='replace').strip()}")
    return True
