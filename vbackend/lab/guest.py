"""One running VM of a lab: its QEMU, its monitor and its agent. It outlives this object, and can be taken over.

Not here: QEMU's command line (vm.py), what is written about a VM (state.py), which ports it is joined to (world.py).
Rule: what needs an answer has a deadline, and the end of QEMU ends every wait at once, with QEMU's last words.
"""

import asyncio
import contextlib
import logging
import os
import random
import shlex
import socket
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self, TypeVar, cast

from vbackend.errors import ConfigError, HostError, PeerError, VbackendError, one_line
from vbackend.lab.names import VmPlace
from vbackend.lab.process import Process
from vbackend.lab.vm import (
    VMSTATE,
    Card,
    Host,
    QmpCall,
    configure_script,
    device_id,
    netdev_id,
    nic_arguments,
    plug_calls,
    vmstate_file,
)
from vbackend.ports.unixsock import socket_address
from vbackend.qemu.agent import OUTPUT_MAX, Agent, Result
from vbackend.qemu.qmp import Qmp, QmpCommandError

__all__ = ["Guest"]

log = logging.getLogger(__name__)

T = TypeVar("T")

BOOT_S: Final = 120.0  # emulated, on a machine that has other things to do
_MONITOR_S: Final = 30.0
_SETUP_S: Final = 60.0  # of one command of `start`
_COPY_RATE: Final = 100_000  # bytes a second, at the least, of a file into a guest
_UNPLUG_S: Final = 15.0  # the guest has a say in it
_GRACE_S: Final = 3.0  # for QEMU to quit by itself
_SNAPSHOT_S: Final = 60.0
_LAST_WORDS: Final = 2000
_MARK: Final = "/run/vbackend-set-up"  # in the guest's memory, so a reset takes it away and a snapshot has it


class Guest:
    """`start` and `adopt` make one; `stop` ends the VM, `leave` only this object."""

    def __init__(self, name: str, place: VmPlace, process: Process, qmp: Qmp, agent: Agent | None) -> None:
        self.name: Final = name
        self.place: Final = place
        self.process: Final = process
        self.qmp: Final = qmp
        self.agent: Final = agent
        self._plugging: Final = asyncio.Lock()
        self._starts = 1  # of the agent, when it was set up last

    @classmethod
    async def start(cls, name: str, command: Sequence[str], place: VmPlace, *, has_agent: bool) -> Self:
        """Start QEMU and connect to it. `command[0]` is a path. HostError, VbackendError with QEMU's own words."""
        for stale in (place.qmp, place.agent, place.console, place.pid):
            stale.unlink(missing_ok=True)
        place.qemu_log.write_bytes(b"")
        place.command.write_bytes(os.fsencode(shlex.join(command)) + b"\n")
        process = Process.spawn(command, place.qemu_log, os.environ)
        try:
            return await cls._connected(name, place, process, has_agent=has_agent)
        except BaseException:
            process.kill()
            await process.wait()
            raise

    @classmethod
    async def adopt(cls, name: str, pid: int, place: VmPlace, *, has_agent: bool) -> Self | None:
        """Take over a QEMU that runs and was set up; None: it has ended, or does not answer."""
        process = Process.adopt(pid, place.pid)
        if process is None:
            return None
        try:
            return await cls._connected(name, place, process, has_agent=has_agent, started=True)
        except VbackendError:
            process.release()
            return None

    @classmethod
    async def _connected(
        cls, name: str, place: VmPlace, process: Process, *, has_agent: bool, started: bool = False
    ) -> Self:
        qmp: Qmp | None = None
        try:
            sock = await _connect(place.qmp, process, f"VM {name!r}: QEMU")
            qmp = await Qmp.connect(sock, timeout=_MONITOR_S)
            agent = None
            if has_agent:
                sock = await _connect(place.agent, process, f"VM {name!r}: its agent's port")
                agent = Agent(sock, first_job=random.randrange(1 << 20, 1 << 30), started=started)
            return cls(name, place, process, qmp, agent)
        except VbackendError as error:
            if qmp is not None:
                await qmp.close()
            with contextlib.suppress(TimeoutError):  # a QEMU that refuses its arguments hangs up first
                why = await asyncio.wait_for(process.wait(), 1.0)
                words = _tail(place.qemu_log) or "it wrote nothing"
                raise VbackendError(f"VM {name!r}: QEMU: {why}: {words}") from error
            raise

    # After boot

    async def set_up(
        self, cards: Mapping[str, Card], copied: Mapping[str, str], commands: Sequence[str]
    ) -> None:
        """Wait until the agent answers, then place, interfaces and commands, in this order, once after each boot.

        `copied`: guest's path -> host's. PeerError: the guest does not come up, or a command fails.
        """
        agent = self.reach_agent()
        self._starts = agent.starts
        try:
            done = await self._while_it_runs(agent.take_over(f"test -e {_MARK}", timeout=BOOT_S))
        except (TimeoutError, PeerError) as error:
            words = _tail(self.place.console_log) or "its console is empty"
            raise PeerError(
                f"VM {self.name!r} did not come up: {_brief(error)}; its console ends with: {words}"
            ) from None
        self._starts = agent.starts
        if done.status == 0:
            return
        for target, source in copied.items():
            await self.copy_in(Path(source), target)
        if script := configure_script(cards):
            await self._demand(script, "its network interfaces")
        for command in commands:
            await self._demand(command, repr(command))
        await self._demand(f": >{_MARK}", _MARK)

    async def wait_reset(self) -> None:
        """Wait until the guest has been reset since `set_up` has had its last answer. PeerError: it is gone."""
        await self.reach_agent().wait_started(max(1, self._starts) + 1)

    async def run(
        self, command: str, *, timeout: float, input: bytes = b"", most: int = OUTPUT_MAX
    ) -> Result:
        """As `Agent.run`. PeerError, when the guest is gone, with its last words."""
        return await self._while_it_runs(
            self.reach_agent().run(command, input=input, timeout=timeout, most=most)
        )

    async def copy_in(self, source: Path, target: str) -> None:
        """Copy a file of the host into the guest, with its permission to be executed."""
        try:
            content, mode = await asyncio.to_thread(source.read_bytes), source.stat().st_mode
        except OSError as error:
            raise ConfigError(f"VM {self.name!r}: cannot read {source}: {error.strerror}") from None
        place = shlex.quote(target)
        script = f'mkdir -p "$(dirname {place})" && cat >{place}'
        if mode & 0o100:
            script += f" && chmod +x {place}"
        await self._demand(script, f"file {target}", content, timeout=_SETUP_S + len(content) / _COPY_RATE)

    # The machine

    async def plug(self, nic: str, card: Card, host: Host) -> None:
        """Add a card; the agent gives the interface its name and addresses. Undone when it fails."""
        async with self._plugging:
            done: list[QmpCall] = []
            try:
                for call in plug_calls(nic_arguments(nic, card, host)):
                    await self.qmp.execute(call.command, call.arguments)
                    done.append(call)
                if self.agent is not None:
                    await self._demand(configure_script({nic: card}), f"its new card {nic}")
            except BaseException as error:
                if done:
                    await self._unplug_failed(nic, card, error)
                raise

    async def unplug(self, nic: str, card: Card) -> None:
        """Take a card out. PeerError: the guest does not let go of it."""
        async with self._plugging:
            await self._unplug(nic, card)

    async def cards(self) -> set[str]:
        """Names of the cards that are plugged in."""
        found = await self.qmp.execute("qom-list", {"path": "/machine/peripheral"}, timeout=_MONITOR_S)
        prefix = device_id("")
        names = [cast(str, each["name"]) for each in cast(list[dict[str, Any]], found)]
        return {name.removeprefix(prefix) for name in names if name.startswith(prefix)}

    async def clean_cards(self, known: Mapping[str, Card]) -> set[str]:
        """The cards that are plugged in, after what is left of half a `plug` or `unplug` was removed."""
        there = await self.cards()
        for nic, card in known.items():
            if nic not in there:
                await self._unplug(nic, card)
        return there

    async def set_link(self, nic: str, up: bool) -> None:
        """Give the card a carrier, or take it away."""
        await self.qmp.set_link(device_id(nic), up)

    async def reset(self) -> None:
        """Press the reset button, and wait for the agent to start again."""
        times = 1 if self.agent is None else self.agent.starts + 1
        await self.qmp.system_reset()
        if self.agent is not None:
            await self._while_it_runs(asyncio.wait_for(self.agent.wait_started(times), BOOT_S))

    async def save(self, tag: str) -> None:
        """Keep the machine's state, memory and disks, under a name; what had the name is gone."""
        await self._snapshot("snapshot-delete", tag)
        await self._snapshot("snapshot-save", tag)

    async def restore(self, tag: str) -> None:
        """Go back to what `save` kept; connections to the agent and cards stay, commands that run fail.

        ConfigError: nothing has that name.
        """
        self._check_snapshots()
        nodes = cast(list[dict[str, Any]], await self.qmp.execute("query-named-block-nodes", {"flat": True}))
        (images,) = (node["image"] for node in nodes if node["node-name"] == VMSTATE)
        tags = [each["name"] for each in images.get("snapshots", ())]
        if tag not in tags:  # QEMU would stop the guest before it sees that
            there = ", ".join(tags) or "none"
            raise ConfigError(f"VM {self.name!r} has no snapshot {tag!r}; there are {there}")
        try:
            await self._snapshot("snapshot-load", tag)
        except HostError as error:  # QEMU has stopped the guest before it tried
            raise HostError(f"{error}; the guest stands still now, vm-restart starts it anew") from None
        if self.agent is not None:
            self.agent.set_back()

    async def stop(self) -> None:
        """Ask QEMU to quit; kill it when it has not after some seconds."""
        if not self.process.ended.done():
            with contextlib.suppress(TimeoutError, VbackendError):
                async with asyncio.timeout(_GRACE_S):
                    await self.qmp.quit()
                    await self.process.wait()
        self.process.kill()
        await self.process.wait()
        await self.leave()

    async def leave(self) -> None:
        """Hang up; the VM runs on. A second call does nothing."""
        if self.agent is not None:
            await self.agent.close()
        await self.qmp.close()
        self.process.release()

    def last_words(self) -> str:
        """The end of what QEMU wrote, or else of the console."""
        return _tail(self.place.qemu_log) or _tail(self.place.console_log)

    def reach_agent(self) -> Agent:
        """ConfigError: it has none."""
        if self.agent is None:
            raise ConfigError(f"VM {self.name!r} has no agent to run commands; only VMs with image= have")
        return self.agent

    async def _demand(self, script: str, what: str, input: bytes = b"", *, timeout: float = _SETUP_S) -> None:
        result = await self.run(script, timeout=timeout, input=input)
        if result.status != 0:
            said = (result.errors.strip() or result.text.strip() or "it wrote nothing")[-_LAST_WORDS:]
            raise PeerError(f"VM {self.name!r}: {what}: status {result.status}: {said}")

    async def _while_it_runs(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, unless QEMU ends first."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait((task, self.process.ended), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                words = self.last_words() or "no last words"
                raise PeerError(f"VM {self.name!r}: QEMU: {self.process.ended.result()}: {words}")
            return await task
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _unplug(self, nic: str, card: Card) -> None:
        device = device_id(nic)
        if nic in await self.cards():
            with self.qmp.events(
                "DEVICE_DELETED", matching=lambda event: _data(event).get("device") == device
            ) as gone:
                await self.qmp.execute("device_del", {"id": device})
                try:
                    await asyncio.wait_for(gone.get(), _UNPLUG_S)
                except TimeoutError:
                    raise PeerError(
                        f"VM {self.name!r}: the guest did not let go of its card {nic} in {_UNPLUG_S:.0f} s"
                    ) from None
        await self._if_there("netdev_del", netdev_id(nic))
        if card.nic.transport == "vhost-user":
            await self._if_there("chardev-remove", f"{netdev_id(nic)}-socket")
        else:
            card.socket.unlink(missing_ok=True)

    async def _unplug_failed(self, nic: str, card: Card, why: BaseException) -> None:
        """After `why`, which is what matters should this fail too."""
        try:
            await self._unplug(nic, card)
        except VbackendError as error:
            if isinstance(why, Exception):
                raise PeerError(f"{one_line(why)}; and what was plugged in stays: {one_line(error)}") from why
            log.warning("VM %s: card %s stays plugged in: %s", self.name, nic, error)

    async def _if_there(self, command: str, ident: str) -> None:
        with contextlib.suppress(QmpCommandError):
            await self.qmp.execute(command, {"id": ident})

    def _check_snapshots(self) -> None:
        if not vmstate_file(self.place).exists():
            raise HostError(
                f"VM {self.name!r} has no place for snapshots: install qemu-img (Debian: qemu-utils), then restart it"
            )

    async def _snapshot(self, command: str, tag: str) -> None:
        self._check_snapshots()
        blocks = cast(list[dict[str, Any]], await self.qmp.execute("query-block"))
        disks = [each["inserted"] for each in blocks if "inserted" in each]
        nodes = [disk["node-name"] for disk in disks if not disk["ro"]]
        job = f"vbackend-{random.randrange(1 << 32)}"
        words: dict[str, object] = {"job-id": job, "tag": tag, "devices": [VMSTATE, *nodes]}
        words |= {} if command == "snapshot-delete" else {"vmstate": VMSTATE}
        with self.qmp.events(
            "JOB_STATUS_CHANGE",
            matching=lambda event: (_data(event)["id"], _data(event)["status"]) == (job, "concluded"),
        ) as concluded:
            await self.qmp.execute(command, words)
            try:
                await self._while_it_runs(asyncio.wait_for(concluded.get(), _SNAPSHOT_S))
            except TimeoutError:
                what = f"VM {self.name!r}: {command} {tag}: not done in {_SNAPSHOT_S:g} s"
                raise HostError(f"{what}; take less memory or a faster disk") from None
        jobs = cast(list[dict[str, Any]], await self.qmp.execute("query-jobs"))
        problem = next((each.get("error") for each in jobs if each["id"] == job), None)
        await self.qmp.execute("job-dismiss", {"id": job})
        if problem is not None:
            raise HostError(f"VM {self.name!r}: {command} {tag}: {problem}")


async def _connect(path: Path, process: Process, what: str) -> socket.socket:
    """Connect to a socket that QEMU will make. VbackendError: QEMU ended, or is silent."""
    deadline = asyncio.get_running_loop().time() + _MONITOR_S
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.connect(socket_address(str(path)))
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError) as error:
            sock.close()
            if process.ended.done():
                raise VbackendError(f"{what}: {process.ended.result()}") from None
            if asyncio.get_running_loop().time() > deadline:
                raise VbackendError(f"{what} does not answer at {path}: {error.strerror}") from None
            await asyncio.sleep(0.02)
        except BaseException:
            sock.close()
            raise
        else:
            return sock


def _data(event: Mapping[str, object]) -> dict[str, Any]:
    return cast(dict[str, Any], event["data"])


def _tail(path: Path) -> str:
    """The end of a log, in one line."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LAST_WORDS))
            return " ".join(file.read().decode(errors="replace").split())
    except FileNotFoundError:
        return ""


def _brief(error: Exception) -> str:
    return f"no answer in {BOOT_S:.0f} s" if isinstance(error, TimeoutError) else str(error)
