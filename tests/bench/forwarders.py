"""How each forwarder is started for a path, and where the load generator finds its two sides.

Taps and tuns live in the run's own namespace. Not here: the measuring (runner.py).
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path as FilePath

from tests.bench.namespace import Namespace
from tests.bench.process import BenchError, read_line, running, until
from tests.bench.scenario import Device, Forwarder, Layout, Path

__all__ = ["Place", "Setup", "lack", "started", "vbackend_run", "version"]

QEMU = "qemu-system-x86_64"
DPDK = "dpdk-testpmd"

# What native/load.c takes for granted of a tun: its link's addresses, and the MAC guests send to.
TUN_LINK = "addr=192.0.2.1,peer=192.0.2.2,mac=02:76:62:00:00:0b"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one forwarder of one path keeps its files, and its device's name."""

    folder: FilePath
    ifname: str
    namespace: Namespace | None  # given when the path has a device
    floor: FilePath  # the compiled program
    queue_limit: int  # of vbackend's ports, frames

    @property
    def log(self) -> FilePath:
        return self.folder / "log"

    @property
    def a(self) -> FilePath:
        return self.folder / "a.sock"

    @property
    def b(self) -> FilePath:
        return self.folder / "b.sock"

    def inside(self, command: list[str]) -> list[str]:
        return command if self.namespace is None else self.namespace.command(command)


@dataclass(frozen=True, slots=True)
class Setup:
    """A running forwarder: its process, and the generator's sides; a device is the second."""

    pid: int
    sides: tuple[str, str]


def lack(forwarder: Forwarder) -> str | None:
    """Why a forwarder cannot be measured here; None: it can."""
    match forwarder:
        case Forwarder.QEMU if shutil.which(QEMU) is None:
            return f"no {QEMU}: `apt-get install qemu-system-x86`"
        case Forwarder.VDE if shutil.which("vde_switch") is None:
            return "no vde_switch: `apt-get install vde2`"
        case Forwarder.DPDK if shutil.which(DPDK) is None:
            return f"no {DPDK}: `apt-get install dpdk`"
        case _:
            return None


def version(forwarder: Forwarder) -> str | None:
    """Of a forwarder that is installed and not the bench's own; None: it does not say."""
    match forwarder:
        case Forwarder.QEMU:
            told = _said([QEMU, "--version"])
            return told.split("version ")[-1].split()[0]
        case Forwarder.DPDK:
            told = _said([DPDK, "-v", "--no-huge", "--no-pci", "--", "--help"])
            return told.partition("'DPDK ")[2].partition("'")[0] or None
        case _:
            return None


def _said(command: list[str]) -> str:
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    ).stdout


def started(forwarder: Forwarder, path: Path, place: Place) -> AbstractContextManager[Setup]:
    """Start it; ready when the context is entered, gone when it is left. BenchError when it does not start."""
    place.folder.mkdir()
    if path.layout:
        return (_dpdk if forwarder is Forwarder.DPDK else _vbackend_vhost)(place, path.layout)
    starters: dict[Forwarder, Callable[[Place, Device | None], AbstractContextManager[Setup]]] = {
        Forwarder.FLOOR: _floor,
        Forwarder.VBACKEND: _vbackend,
        Forwarder.QEMU: _qemu,
        Forwarder.VDE: _vde,
    }
    return starters[forwarder](place, path.device)


def _stream_sides(place: Place, device: Device | None) -> tuple[str, str]:
    return f"stream:{place.a}", f"{device}:{place.ifname}" if device else f"stream:{place.b}"


def _vhost_sides(place: Place, layout: Layout) -> tuple[str, str]:
    return f"{layout}:{place.a}", f"{layout}:{place.b}"


def _link_up(place: Place) -> None:
    if place.namespace is not None:
        place.namespace.up(place.ifname)


@contextmanager
def _floor(place: Place, device: Device | None) -> Iterator[Setup]:
    sides = _stream_sides(place, device)
    with running(place.inside([str(place.floor), *sides]), place.log) as child:
        until(lambda: place.log.read_text() == "ready\n", "floor: start", child, place.log)
        _link_up(place)
        yield Setup(child.pid, sides)


@contextmanager
def _vbackend(place: Place, device: Device | None) -> Iterator[Setup]:
    other = f"stream:unix:{place.b}"
    if device:
        assert place.namespace is not None
        other = f"{device}:{place.ifname},netns={place.namespace.name}"
    if device == "tun":
        other += f",{TUN_LINK}"
    limit = ["--queue-limit", str(place.queue_limit)]
    with vbackend_run(place, [*limit, f"stream:unix:{place.a}", other]) as pid:
        yield Setup(pid, _stream_sides(place, device))


@contextmanager
def _vbackend_vhost(place: Place, layout: Layout) -> Iterator[Setup]:
    """A cable, as DPDK's forwarding mode `io` is: neither learns or looks up addresses."""
    with vbackend_run(place, ["--cable", f"vhost-user:{place.a}", f"vhost-user:{place.b}"]) as pid:
        yield Setup(pid, _vhost_sides(place, layout))


@contextmanager
def vbackend_run(place: Place, arguments: list[str]) -> Iterator[int]:
    """`vbackend run` as a user starts it, ready; its process."""
    read_end, write_end = os.pipe()
    try:
        command = [sys.executable, "-c", "from vbackend.cli.main import main; main()", "run"]
        command += ["--name", f"bench-{place.ifname}", "--control", str(place.folder / "control.sock")]
        command += ["--ready-fd", str(write_end), *arguments]
        with running(command, place.log, pass_fds=[write_end]) as child:
            os.close(write_end)
            write_end = -1
            if read_line(read_end, 30) != "READY":
                raise BenchError(f"vbackend run: not ready: {place.log.read_text().strip()[-600:]}")
            yield child.pid
    finally:
        os.close(read_end)
        if write_end >= 0:
            os.close(write_end)


@contextmanager
def _qemu(place: Place, device: Device | None) -> Iterator[Setup]:
    def stream(name: str, path: FilePath) -> list[str]:
        return ["-netdev", f"stream,id={name},server=on,addr.type=unix,addr.path={path}"]

    # Not with -S: a stopped machine queues frames, also between the ports of a hub.
    command = [QEMU, "-machine", "none", "-nodefaults", "-display", "none", *stream("a", place.a)]
    if device:
        command += ["-netdev", f"tap,id=b,ifname={place.ifname},script=no,downscript=no"]
    else:
        command += stream("b", place.b)
    for name in "ab":
        command += ["-netdev", f"hubport,id=hub-{name},hubid=0,netdev={name}"]
    with running(place.inside(command), place.log) as child:
        sockets = [place.a] if device else [place.a, place.b]
        until(lambda: all(s.exists() for s in sockets), "QEMU as hub: start", child, place.log)
        _link_up(place)
        yield Setup(child.pid, _stream_sides(place, device))


@contextmanager
def _vde(place: Place, device: Device | None) -> Iterator[Setup]:
    switch = place.folder / "switch"
    command = ["vde_switch", "--sock", str(switch), "--rcfile", os.devnull]
    if device:
        command += ["--tap", place.ifname]
    # It ends when its stdin does, which is its console: it gets one that stays open.
    with running(place.inside(command), place.log, pipes=True) as child:
        until(lambda: (switch / "ctl").exists(), "vde_switch: start", child, place.log)
        _link_up(place)
        plugs = [f"vde:{switch}:{place.folder / name}" for name in ("plug-a", "plug-b")]
        yield Setup(child.pid, (plugs[0], f"tap:{place.ifname}" if device else plugs[1]))


@contextmanager
def _dpdk(place: Place, layout: Layout) -> Iterator[Setup]:
    """Its poll-mode driver of vhost-user ports, without huge pages, which few machines have set aside."""
    cpu = max(os.sched_getaffinity(0))
    # Two of DPDK's "lcores" on one CPU: the first only waits for the end of stdin.
    command = [DPDK, "--lcores", f"0@{cpu},1@{cpu}", "--no-huge", "-m", "256", "--no-pci", "--no-telemetry"]
    command += ["--no-shconf", "--file-prefix", f"vbbench{os.getpid()}{place.ifname}"]
    command += ["--vdev", f"net_vhost0,iface={place.a}", "--vdev", f"net_vhost1,iface={place.b}"]
    command += ["--", "--forward-mode=io", "--total-num-mbufs=8192", "--disable-link-check"]
    with running(command, place.log, pipes=True) as child:
        until(lambda: place.a.exists() and place.b.exists(), f"{DPDK}: start", child, place.log)
        yield Setup(child.pid, _vhost_sides(place, layout))
