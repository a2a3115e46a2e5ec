"""The process that runs a lab: takes the lock, takes guests over, serves the control socket until it is told to end.

    python -m vbackend.lab.daemon NAME      what `vbackend up` starts; its words go to daemon.log

Guests are not its children in spirit: SIGTERM ends the daemon and leaves them, and the next one takes them over. Only
`lab-down` ends everything. Rule: everything that changes the lab holds `_turn`; state.json is written before the first
step and after the last one.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import JsonValue, ValidationError

from vbackend import __version__
from vbackend.backend import Backend
from vbackend.control.foreground import unless_wanted
from vbackend.control.server import ControlServer
from vbackend.control.signals import ending_signals
from vbackend.errors import ConfigError, HostError, VbackendError
from vbackend.host.outside import Outside
from vbackend.host.rootless import own_namespace
from vbackend.host.tap import HostDevices
from vbackend.lab.apply import Progress, apply
from vbackend.lab.guest import Guest
from vbackend.lab.machines import VmNow
from vbackend.lab.model import Cable, Impair, Lab, lab_problems
from vbackend.lab.orders import lab_commands
from vbackend.lab.picture import NOTHING, Picture, after, picture
from vbackend.lab.plan import plan, summary
from vbackend.lab.process import find_qemus
from vbackend.lab.relay import Relays
from vbackend.lab.state import LabFolder, LabLock, LabRecord
from vbackend.lab.status import LabStatus, VmSeen, lab_status
from vbackend.lab.steps import Step, describe
from vbackend.lab.words import first_problem
from vbackend.lab.world import LabWorld
from vbackend.qemu.agent import Result
from vbackend.services.snapshot import StationSnapshot

__all__ = ["LabDaemon", "LabEvent", "enter_namespace", "live", "main"]

log = logging.getLogger(__name__)

_IDLE_S: Final = 60.0  # a daemon whose client died before it said what to run ends by itself
_LOCK_TRIES: Final = 20


@dataclass(frozen=True, slots=True)
class LabEvent:
    """What clients are told.

    LAB_PROGRESS  step, state (begin, done, failed), undo, error    while something is applied
    VM_STATE      vm, state, reason
    """

    name: str
    data: Mapping[str, JsonValue]
    time: float  # seconds since the epoch


class LabDaemon:
    """One lab. `serve` is its life; the other methods are its commands."""

    def __init__(self, name: str, environ: Mapping[str, str], outside: Outside | None = None) -> None:
        """`outside`: as `enter_namespace` returned it."""
        self._folder: Final = LabFolder(name, environ)
        self._devices: Final = HostDevices()
        self._outside: Final = outside
        self._backend: Final = Backend(name=name, segment=None, host=self._devices)
        self._world: Final = LabWorld(self._folder, self._backend, self._devices, outside, self._vm_changed)
        self._server: Final = ControlServer(str(self._folder.control), version=__version__)
        self._relays: Final = Relays(str(self._folder.control))
        self._record = LabRecord()
        self._now: Picture = NOTHING
        self._healed = False  # what ran before this daemon has been made to run again, or replaced
        self._turn: Final = asyncio.Lock()
        self._applying = 0  # clients that wait for `apply`
        self._applier: asyncio.Task[object] | None = None  # whose turn it is
        self._leaving = False  # `down` was asked for
        self._end: Final = asyncio.Event()
        self._remove = False

    async def serve(self, *, wanted: Lab | None = None, file: str | None = None) -> None:
        """Until the end. `wanted`: what to run, in the foreground; then the end takes everything down.

        ConfigError: another daemon runs the lab. ApplyError: `wanted` cannot be run.
        """
        lock = await _take_lock(self._folder)
        if lock is None:
            raise ConfigError(
                f"lab {self._folder.name!r} runs already, in process {LabLock.holder(self._folder)}"
            )
        try:
            async with contextlib.AsyncExitStack() as stack:
                if self._outside is not None:
                    stack.callback(self._outside.close)
                stack.push_async_callback(self._devices.close_all)
                stack.push_async_callback(self._backend.stop)
                self._record = self._folder.read()
                await stack.enter_async_context(self._server)
                await self._backend.start([])
                self._backend.failure.add_done_callback(self._fail)
                self._now = await self._world.take_over()
                stack.push_async_callback(self._world.close)
                stack.push_async_callback(self._relays.close)
                stack.push_async_callback(
                    self._server.close
                )  # first: what is being changed is undone while it can be
                await self._server.serve(self._backend, self._end.set, lab_commands(self))
                log.info("lab %s: %d guests taken over", self._folder.name, len(self._now.vms))
                if wanted is not None:
                    try:
                        applying = asyncio.create_task(self.apply(wanted, file), name="apply")
                        await unless_wanted(applying, self._end)
                        await self._end.wait()
                    finally:
                        await self.down()
                else:
                    await self._serve()
            if self._remove or (self._record.running is None and not self._world.machines.vms):
                self._folder.remove()
        finally:
            lock.release()

    async def _serve(self) -> None:
        """Wait for the end, but not for ever for a first client."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._end.wait(), _IDLE_S)
        if not self._healed and not self._turn.locked() and not self._now.vms:
            self._remove = True
            return
        await self._end.wait()

    def end(self) -> None:
        """Ask for the end; guests stay."""
        self._end.set()

    # Commands

    @property
    def lab(self) -> Lab | None:
        return self._record.running

    def status(self) -> LabStatus:
        known = self._world.machines.vms
        names = [*(name for name in self._now.vms if name in known), *(set(known) - set(self._now.vms))]
        vms = {
            name: VmSeen(
                machine=known[name].machine,
                state=known[name].state,
                reason=known[name].reason,
                pid=None if (guest := known[name].guest) is None else guest.process.pid,
                since=known[name].since,
            )
            for name in names
        }
        return lab_status(
            self._now,
            vms,
            self._backend.snapshot(),
            file=self._record.file,
            changing=self._turn.locked(),
            ending=self._end.is_set(),
            stations=self.stations(),
            now=time.time(),
        )

    def stations(self) -> dict[str, StationSnapshot]:
        return self._world.stations.snapshots()

    def planned(self, lab: Lab | None) -> list[str]:
        """What `apply` would do. ConfigError as `apply`."""
        return list(summary(plan(self._seen(), self._wanted(lab))))

    async def apply(self, lab: Lab | None, file: str | None) -> None:
        """Become this lab, or (None) the one that ran last. ApplyError: it is as before.

        When nothing has ever run to the end, and nobody else waits to try, the daemon ends.
        """
        self._applying += 1
        try:
            async with self._turn:
                self._check_going_on()
                await self._world.machines.notice_ends()
                self._now = self._seen()
                await self._unless_leaving(self._apply(self._wanted(lab), file))
        finally:
            self._applying -= 1
            if not self._applying and self._record.running is None and not self._end.is_set():
                await self.down()

    async def down(self) -> None:
        """Take everything away; the daemon ends. What is being applied is undone first."""
        if self._applier is not None and not self._leaving:
            self._applier.cancel()
        self._leaving = True
        async with self._turn:
            try:
                await apply(plan(self._now, None), self._world, self._progress, undo=False)
            except VbackendError as error:
                log.warning("lab-down: %s", error)
            for name in list(self._world.machines.vms):
                await self._world.machines.stop(name)
            self._remove = True
            self._end.set()

    async def run(self, vm: str, command: str, timeout: float, most: int) -> Result:
        """Run a command in a guest. HostError: it takes too long. ConfigError: it writes more than `most` bytes."""
        try:
            return await self._world.machines.guest(vm).run(command, timeout=timeout, most=most)
        except TimeoutError as error:
            raise HostError(f"VM {vm!r}: {error}") from None

    def attach(self, vm: str) -> str:
        """The path of a socket for one client that runs commands in a guest."""
        return self._relays.start(self._world.machines.guest(vm).reach_agent())

    async def vm_start(self, vm: str) -> None:
        async with self._turn:
            await self._world.machines.again(vm)

    async def vm_stop(self, vm: str) -> None:
        async with self._turn:
            self._world.machines.now(vm)
            await self._world.machines.halt(vm, "asked for")

    async def vm_restart(self, vm: str) -> None:
        async with self._turn:
            self._world.machines.now(vm)
            await self._world.machines.halt(vm, "restarts")
            await self._world.machines.again(vm)

    async def vm_save(self, vm: str, tag: str) -> None:
        async with self._turn:
            await self._world.machines.guest(vm).save(tag)

    async def vm_restore(self, vm: str, tag: str) -> None:
        async with self._turn:
            await self._world.machines.guest(vm).restore(tag)
            self._world.tell_carriers(vm)

    async def save_all(self, tag: str) -> None:
        async with self._turn:
            await _together(guest.save(tag) for guest in self._guests())

    async def restore_all(self, tag: str) -> None:
        async with self._turn:
            await _together(guest.restore(tag) for guest in self._guests())
            for vm in self._world.machines.vms:
                self._world.tell_carriers(vm)

    async def set_cable(
        self, cable: str, up: bool | None, forward: Impair | None, back: Impair | None
    ) -> None:
        async with self._turn:
            self._check_going_on()
            lab = self._wanted(None)
            await self._apply(_with_cable(lab, cable, up, forward, back), None)

    def _check_going_on(self) -> None:
        if self._leaving or self._end.is_set():
            raise HostError(f"lab {self._folder.name!r} is being taken down; try again")

    async def _unless_leaving(self, work: Coroutine[Any, Any, None]) -> None:
        """Do the work. HostError: `down` was asked for before it was done."""
        task = self._applier = asyncio.current_task()
        assert task is not None, "it is a coroutine's"
        try:
            await work
        except asyncio.CancelledError:
            if self._leaving and task.cancelling() == 1:  # it was nobody else
                self._check_going_on()
            raise
        finally:
            self._applier = None
            if self._leaving:
                task.uncancel()

    async def _apply(self, wanted: Lab, file: str | None) -> None:
        before, file = self._record.running, file or self._record.file
        self._folder.write(LabRecord(file=file, running=before, wanted=wanted))
        self._world.expect(wanted)
        try:
            await apply(plan(self._now, wanted), self._world, self._progress)
        except BaseException:
            if (
                before is not None
                and not self._healed
                and before != wanted
                and not self._leaving
                and not self._end.is_set()
            ):
                await self._heal(before)
            if before is not None:
                self._folder.write(LabRecord(file=self._record.file, running=before))
            raise
        self._now = picture(wanted)  # the same, in the order of the file
        self._healed = True
        self._record = LabRecord(file=file, running=wanted)
        self._folder.write(self._record)
        await self._world.machines.set_up_taken_over()

    async def _heal(self, before: Lab) -> None:
        """Give the guests of a dead daemon their network again."""
        self._world.expect(before)
        try:
            await apply(plan(self._now, before), self._world, self._progress)
            self._healed = True
            await self._world.machines.set_up_taken_over()
        except VbackendError as error:
            log.error("what ran before cannot be made to run again: %s", error)

    def _guests(self) -> list[Guest]:
        return [self._world.machines.guest(name) for name in self._world.machines.vms]

    def _wanted(self, lab: Lab | None) -> Lab:
        lab = lab or self._record.wanted or self._record.running
        if lab is None:
            raise ConfigError(f"lab {self._folder.name!r}: nothing ran before; give its file")
        if lab.name != self._folder.name:
            raise ConfigError(f"this is lab {self._folder.name!r}, not {lab.name!r}")
        return lab

    def _seen(self) -> Picture:
        """What runs, without VMs that ended by themselves: those are started again."""
        return self._world.seen(self._now)

    def _progress(self, progress: Progress) -> None:
        if progress.state == "done":
            self._now = after(self._now, progress.step)
        self._event("LAB_PROGRESS", _words(progress.step, progress))
        log.info(
            "%s: %s%s",
            progress.state,
            describe(progress.step),
            f": {progress.error}" if progress.error else "",
        )

    def _vm_changed(self, name: str, now: VmNow) -> None:
        self._event("VM_STATE", {"vm": name, "state": now.state, "reason": now.reason})

    def _event(self, name: str, data: Mapping[str, JsonValue]) -> None:
        self._server.tell(LabEvent(name, data, time.time()))

    def _fail(self, failure: asyncio.Future[str]) -> None:
        if not failure.cancelled():
            log.critical("%s; `vbackend up` takes the guests over", failure.result())
            self._end.set()


async def _together(work: Iterable[Awaitable[None]]) -> None:
    """All to their ends; then the first error."""
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def _words(step: Step, progress: Progress) -> dict[str, JsonValue]:
    return {
        "step": describe(step),
        "state": progress.state,
        "undo": progress.undo,
        "error": progress.error,
    }


def _with_cable(lab: Lab, title: str, up: bool | None, forward: Impair | None, back: Impair | None) -> Lab:
    """The lab with one cable changed. ConfigError: there is no such cable, or it makes no sense then."""
    if title not in [cable.title for cable in lab.cable]:
        known = ", ".join(cable.title for cable in lab.cable) or "none"
        raise ConfigError(f"there is no cable {title!r}; there are {known}")

    def changed(cable: Cable) -> Cable:
        there, back_now = cable.directions()
        return Cable(
            ends=cable.ends,
            name=cable.name,
            up=cable.up if up is None else up,
            carrier=cable.carrier,
            forward=forward or Impair.model_validate(there),
            back=back or Impair.model_validate(back_now),
        )

    try:
        cables = tuple(changed(cable) if cable.title == title else cable for cable in lab.cable)
    except ValidationError as error:
        raise ConfigError(f"cable {title!r}: {first_problem(error)}") from None
    found = lab.model_copy(update={"cable": cables})
    for _, what in lab_problems(found):
        raise ConfigError(what)
    return found


async def _take_lock(folder: LabFolder) -> LabLock | None:
    """Somebody who only looks may hold it for a moment."""
    for _ in range(_LOCK_TRIES):
        folder.make()
        if (lock := LabLock.take(folder)) is not None:
            return lock
        await asyncio.sleep(0.05)
    return None


def enter_namespace(name: str, environ: Mapping[str, str]) -> Outside | None:
    """Without root: go where the lab's guests are, or to a namespace of the lab's own. Before there are threads.

    Where the host forbids that, the lab runs without; what needs it says so.
    """
    guests = find_qemus(LabFolder(name, environ).vms)
    try:
        return own_namespace(next(iter(guests.values()), None))
    except HostError as error:
        log.warning("no taps and no NAT for this lab: %s", error)
        return None


async def live(
    name: str, outside: Outside | None, *, wanted: Lab | None = None, file: str | None = None
) -> None:
    """A daemon's life, which `ending_signals` end; in the background not SIGHUP. Arguments and errors: LabDaemon's."""
    daemon, loop = LabDaemon(name, os.environ, outside), asyncio.get_running_loop()
    for number in ending_signals():
        loop.add_signal_handler(number, daemon.end)
    if wanted is None:
        loop.add_signal_handler(signal.SIGHUP, log.info, "SIGHUP says nothing to a lab in the background")
    await daemon.serve(wanted=wanted, file=file)


def main() -> None:
    """The process's entry: its one argument is the lab's name."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    try:
        asyncio.run(live(sys.argv[1], enter_namespace(sys.argv[1], os.environ)))
    except (VbackendError, OSError) as error:
        print(f"vbackend: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
