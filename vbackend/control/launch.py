"""`vbackend exec`: QEMU as a child of a backend, its NICs on passed descriptors.

PORTs without a place (`stream`, `dgram`, `vhost-user`) are NICs of this guest, the others are what it is joined
to. Exactly two make a cable, more a switch. A vhost-user NIC needs the guest's memory to be shared: that is added,
unless the command has it. Its socket has a path, in a folder of our own, since QEMU passes descriptors only over
sockets that it connected itself (chardev/char-socket.c). Not here: the backend's own life (foreground.py).

Rule: the child's end of each socket is closed here as soon as the child has it, so that its death is seen.
"""

import asyncio
import hashlib
import logging
import shutil
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final, Literal

from vbackend.control.foreground import Ending, RunPlan, checked_plan, running_backend
from vbackend.control.readiness import notify
from vbackend.control.signals import ending_signals
from vbackend.errors import ConfigError, HostError
from vbackend.ports.parse import parse_port
from vbackend.ports.spec import (
    DgramUnixSpec,
    PortSpec,
    StreamSpec,
    UnixAddress,
    VhostUserSpec,
    takes_many,
)
from vbackend.qemu.netdev import netdev_arguments
from vbackend.qemu.options import memory_to_share, shared_memory, surely_kvm
from vbackend.qemu.version import QemuVersion, qemu_version

if TYPE_CHECKING:
    from vbackend.backend import Backend

__all__ = ["Launch", "Nic", "exit_status", "nic_arguments", "plan_launch", "run_guest", "stable_mac"]

log = logging.getLogger(__name__)

_PLACEHOLDERS: Final[dict[str, str]] = {
    "stream": "stream:unix:@nic",
    "dgram": "dgram:unix:@nic:@guest",
    "vhost-user": "vhost-user:@nic",
}
_OLDEST: Final = QemuVersion(7, 2)  # with all that is used here
_PATIENCE: Final = 1.0  # seconds QEMU has to end by itself when the backend has to


@dataclass(frozen=True, slots=True)
class Nic:
    """A network card of the guest."""

    spec: StreamSpec | DgramUnixSpec | VhostUserSpec  # without an address that means anything
    mac: str


@dataclass(frozen=True, slots=True)
class Launch:
    """What `exec` is to do."""

    nics: tuple[Nic, ...]
    joined: tuple[PortSpec, ...]
    command: tuple[str, ...]
    arguments: tuple[str, ...] = ()  # what the command needs besides the NICs: shared memory

    @property
    def segment(self) -> Literal["switch", "cable"]:
        multi = any(takes_many(spec) for spec in self.joined)
        return "cable" if len(self.nics) + len(self.joined) == 2 and not multi else "switch"


def plan_launch(ports: Sequence[str], command: Sequence[str]) -> Launch:
    """Sort the PORTs; without a NIC among them a `stream` one is added. ConfigError: a PORT, no command, memory."""
    if not command:
        raise ConfigError("exec: no command; write it after --, for instance -- qemu-system-x86_64 -m 512")
    texts = [text for text in ports if _is_nic(text)] or ["stream"]
    nics = tuple(_nic(text, stable_mac(command, index)) for index, text in enumerate(texts))
    joined = tuple(parse_port(text) for text in ports if not _is_nic(text))
    size = memory_to_share(command) if any(isinstance(nic.spec, VhostUserSpec) for nic in nics) else None
    return Launch(nics, joined, tuple(command), () if size is None else tuple(shared_memory(size)))


def stable_mac(command: Sequence[str], index: int) -> str:
    """An address in QEMU's range that a guest keeps from run to run and that differs between guests."""
    seed = "\0".join([*command, str(index)]).encode(errors="surrogateescape")
    return "52:54:00:" + hashlib.sha256(seed).digest()[:3].hex(":")


def nic_arguments(
    nic: Nic, index: int, fd: int | None = None, *, version: QemuVersion = _OLDEST, kvm: bool = False
) -> list[str]:
    """QEMU's arguments for a NIC: on a connected socket, or (`fd` None) at its spec's address."""
    netdev_id = f"vbackend{index}"
    return list(
        netdev_arguments(nic.spec, version, netdev_id=netdev_id, mac=nic.mac, fd=fd, kvm=kvm).arguments
    )


def exit_status(returncode: int) -> int:
    """The shell's convention: 128 and the signal's number for a child that was killed."""
    return 128 - returncode if returncode < 0 else returncode


async def run_guest(
    launch: Launch, *, name: str, control: str | None, queue_frames: int, environ: Mapping[str, str]
) -> int:
    """Run the guest to its end; returns the status to exit with.

    SIGINT, SIGTERM and SIGHUP go to the guest. HostError, OSError: a port or the program cannot be opened, or a fault
    of the engine ended it.
    """
    program = launch.command[0]
    if shutil.which(program, path=environ.get("PATH")) is None:
        raise HostError(f"exec: {program!r} is no program that can be run; install it, or give its path")
    plan = checked_plan(
        RunPlan(name, launch.segment, launch.joined, control, queue_frames, to_come=len(launch.nics))
    )
    ending = Ending()
    relay = _Relay(ending)
    with relay.installed(), TemporaryDirectory(prefix="vbackend-") as folder, ExitStack() as sockets:
        async with running_backend(plan, ending) as backend:
            if ending.wanted.is_set():
                return 128 + relay.early
            arguments, fds = await _open_nics(backend, launch, sockets, Path(folder))
            relay.spawning = True
            child = await asyncio.create_subprocess_exec(*launch.command, *arguments, pass_fds=fds)
            relay.spawned(child)
            sockets.close()
            notify("READY=1", environ)
            status = await _watch(child, ending)
    if ending.fault:
        raise HostError(ending.fault)
    return exit_status(status)


async def _open_nics(
    backend: "Backend", launch: Launch, sockets: ExitStack, folder: Path
) -> tuple[list[str], list[int]]:
    version, kvm = await asyncio.to_thread(_version, launch), surely_kvm(launch.command)
    arguments = list(launch.arguments)
    fds: list[int] = []
    for index, nic in enumerate(launch.nics):
        if isinstance(nic.spec, VhostUserSpec):
            path = str(folder / f"vhost-user{index}")
            nic = replace(nic, spec=replace(nic.spec, text=f"vhost-user:{path}", address=UnixAddress(path)))
            await backend.add_port(nic.spec)
            arguments += nic_arguments(nic, index, version=version, kvm=kvm)
        else:
            theirs = await _passed(backend, nic.spec)
            sockets.enter_context(theirs)
            fds.append(theirs.fileno())
            arguments += nic_arguments(nic, index, theirs.fileno())
    return arguments, fds


async def _passed(backend: "Backend", spec: StreamSpec | DgramUnixSpec) -> socket.socket:
    """A port on one end of a pair of sockets; the other end, for QEMU."""
    kind: Literal["stream", "dgram"] = "stream" if isinstance(spec, StreamSpec) else "dgram"
    ours, theirs = socket.socketpair(
        socket.AF_UNIX, socket.SOCK_STREAM if kind == "stream" else socket.SOCK_DGRAM
    )
    try:
        await backend.adopt(kind, ours, spec.options, f"{kind}:fd")
    except BaseException:
        theirs.close()
        raise
    return theirs


def _version(launch: Launch) -> QemuVersion:
    """The command's, where it matters and if it tells: behind a wrapper the oldest is what suits all."""
    if any(isinstance(nic.spec, VhostUserSpec) for nic in launch.nics):
        with suppress(HostError):
            return qemu_version(launch.command[0])
    return _OLDEST


async def _watch(child: asyncio.subprocess.Process, ending: Ending) -> int:
    """Wait for the child; when the backend has to end first, end the child too."""
    over = asyncio.create_task(child.wait(), name="guest")
    wanted = asyncio.create_task(ending.wanted.wait(), name="end while the guest runs")
    try:
        await asyncio.wait((over, wanted), return_when=asyncio.FIRST_COMPLETED)
        if not over.done():
            log.warning("the backend has to end: ending the guest")
            child.terminate()
            await asyncio.wait((over,), timeout=_PATIENCE)
        if not over.done():
            child.kill()
        return await over
    finally:
        wanted.cancel()


class _Relay:
    """Passes what asks for the end to the child, once there is one; before, it ends the start."""

    def __init__(self, ending: Ending) -> None:
        self._ending = ending
        self.child: asyncio.subprocess.Process | None = None
        self.spawning = False
        self.early = 0  # the signal that came before the child

    def caught(self, number: signal.Signals) -> None:
        if self.child is None:
            self.early = self.early or number
            if not self.spawning:
                self._ending.request()
        elif self.child.returncode is None:
            self.child.send_signal(number)

    def spawned(self, child: asyncio.subprocess.Process) -> None:
        self.child = child
        if self.early and child.returncode is None:
            child.send_signal(self.early)

    @contextmanager
    def installed(self) -> Iterator[None]:
        loop, numbers = asyncio.get_running_loop(), ending_signals()
        for each in numbers:
            loop.add_signal_handler(each, self.caught, each)
        try:
            yield
        finally:
            for each in numbers:
                loop.remove_signal_handler(each)


def _is_nic(text: str) -> bool:
    return text.partition(",")[0] in _PLACEHOLDERS


def _nic(text: str, mac: str) -> Nic:
    word, comma, rest = text.partition(",")
    try:
        spec = parse_port(_PLACEHOLDERS[word] + comma + rest)
    except ConfigError as error:
        raise ConfigError(str(error).replace(_PLACEHOLDERS[word], word, 1)) from None
    assert isinstance(spec, StreamSpec | DgramUnixSpec | VhostUserSpec), "as the placeholders are"
    if (not isinstance(spec, DgramUnixSpec) and spec.dial) or (isinstance(spec, StreamSpec) and spec.multi):
        raise ConfigError(f"port {text!r}: a NIC of this guest cannot dial or be multi; leave that out")
    given = spec.options.mac
    return Nic(spec, mac if given is None else given.hex(":"))
