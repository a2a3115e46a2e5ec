"""Guests that send and receive in bulk: iperf3 between two, and between one and this host, through each back-end.

A link is two ends and what joins them; all links are up at once and measured in turn, as forwarders are (runner.py).
User-mode Linux runs at native speed; a QEMU guest is slow without KVM, but alike with each of its back-ends.
"""

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.bulk import QEMU_PASST, QEMU_TAP, QEMU_VHOST, UML_HOST, UML_PAIR, Transfer
from tests.bench.forwarders import Place, vbackend_run
from tests.bench.namespace import Namespace
from tests.bench.process import BenchError, cpu_ns, prefer, running, until
from tests.support.guest import Guest, nic
from tests.support.linux import GuestError, LinuxGuest
from tests.support.uml import UmlGuest, uml_initrd
from vbackend.errors import HostError
from vbackend.images import BuiltImage, build_image
from vbackend.qemu.options import shared_memory

__all__ = ["lack", "transfers"]

PORT: Final = "--port 5201"
MAC: Final = "52:54:00:00:00:02"
PASST_MAC: Final = "52:54:00:00:00:01"
PASST_MTU: Final = 65520  # what passt tells its guests by DHCP, passt(1) --mtu


def lack() -> str | None:
    """Why no guest can be measured here; None: some can, if their programs are there."""
    if shutil.which("iperf3") is None:
        return "no iperf3: `apt-get install iperf3`"
    return None


async def transfers(
    folder: Path, namespace: Namespace, *, rounds: int, seconds: int, tell: Callable[[str], None]
) -> tuple[tuple[Transfer, ...], dict[str, str]]:
    """Boot everything, measure `rounds` times `seconds` in each direction; also why what link could not be measured."""
    done: list[Transfer] = []
    lacks: dict[str, str] = {}
    makers = {
        UML_PAIR: _uml_pair,
        UML_HOST: _uml_host,
        QEMU_VHOST: _qemu_vhost,
        QEMU_TAP: _qemu_tap,
        QEMU_PASST: _qemu_passt,
    }
    async with AsyncExitStack() as stack:
        links = []
        image = await asyncio.to_thread(build_image, "small")
        for number, (name, make) in enumerate(makers.items()):
            tell(f"booting: {name}")
            place = Place(folder / f"bulk{number}", f"vbbulk{number}", namespace, Path(), 256)
            place.folder.mkdir()
            try:
                links.append(await stack.enter_async_context(make(name, image, place, f"10.9.{number}")))
            except (HostError, BenchError, GuestError) as error:
                lacks[name] = str(error)
        for number in range(1, rounds + 1):
            for link in links:
                for sends in link.directions:
                    tell(f"round {number} of {rounds}: {link.name}")
                    done.append(await link.transfer(number, sends, seconds))
    return tuple(done), lacks


@dataclass(frozen=True, slots=True)
class _Link:
    name: str
    guest: LinuxGuest  # where the client of iperf3 runs
    peer: str  # address of its server
    directions: tuple[bool, ...]
    backend: int | None  # processes
    qemu: int | None

    async def transfer(self, number: int, sends: bool, seconds: int) -> Transfer:
        before = self._spent()
        command = f"iperf3 --client {self.peer} {PORT} --time {seconds} --json"
        command += "" if sends else " --reverse"
        result = await self.guest.run(command, timeout=seconds + 60)
        backend, qemu = (after - start for after, start in zip(self._spent(), before, strict=True))
        try:
            end = json.loads(result.stdout)["end"]["sum_received"]
        except (json.JSONDecodeError, KeyError) as error:
            raise BenchError(
                f"{self.name}: iperf3: {(result.text + result.errors).strip()[-400:]}"
            ) from error
        return Transfer(self.name, sends, number, end["bytes"], end["seconds"], backend, backend + qemu)

    def _spent(self) -> tuple[int, int]:
        return cpu_ns(self.backend) if self.backend else 0, cpu_ns(self.qemu) if self.qemu else 0


@asynccontextmanager
async def _uml_pair(name: str, image: BuiltImage, place: Place, network: str) -> AsyncIterator[_Link]:
    with vbackend_run(place, ["--cable", f"vhost-user:{place.a}", f"vhost-user:{place.b}"]) as backend:
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(await _uml(image, place.folder, place.a, f"{network}.2"))
            second = await stack.enter_async_context(await _uml(image, place.folder, place.b, f"{network}.1"))
            await second.agent.start(f"iperf3 --server {PORT}")
            await first.wait_ping(f"{network}.1")
            yield _Link(name, first, f"{network}.1", (True,), backend, None)


@asynccontextmanager
async def _uml_host(name: str, image: BuiltImage, place: Place, network: str) -> AsyncIterator[_Link]:
    with _backend_to_tap(place, network) as backend:
        async with await _uml(image, place.folder, place.a, f"{network}.2") as guest:
            await guest.wait_ping(f"{network}.1")
            yield _Link(name, guest, f"{network}.1", (True, False), backend, None)


@asynccontextmanager
async def _qemu_vhost(name: str, image: BuiltImage, place: Place, network: str) -> AsyncIterator[_Link]:
    card = [*shared_memory(image.memory_mib << 20), "-chardev", f"socket,id=card,path={place.a}"]
    card += nic("vhost-user,id=net0,chardev=card", MAC, vectors=0)
    with _backend_to_tap(place, network) as backend:
        async with await Guest.boot(image, place.folder, name="vhost", network=card) as guest:
            yield await _qemu_link(name, guest, network, backend)


@asynccontextmanager
async def _qemu_tap(name: str, image: BuiltImage, place: Place, network: str) -> AsyncIterator[_Link]:
    """QEMU makes the tap where it runs itself; it is moved from there."""
    card = nic(f"tap,id=net0,ifname={place.ifname},script=no,downscript=no", MAC, vectors=0)
    async with await Guest.boot(image, place.folder, name="tap", network=card) as guest:
        assert place.namespace is not None
        _ip("link", "set", place.ifname, "netns", place.namespace.name)
        _ip("-n", place.namespace.name, "address", "add", f"{network}.1/24", "dev", place.ifname)
        place.namespace.up(place.ifname)
        with _server(place):
            yield await _qemu_link(name, guest, network, None)


@asynccontextmanager
async def _qemu_passt(name: str, image: BuiltImage, place: Place, network: str) -> AsyncIterator[_Link]:
    """passt ends the guest's connections and makes its own, to the host's loopback for those to its gateway."""
    with _passt(place, network) as backend, _server(place):
        card = nic(f"stream,id=net0,server=off,addr.type=unix,addr.path={place.a}", MAC, vectors=0)
        async with await Guest.boot(image, place.folder, name="passt", network=card) as guest:
            await guest.configure(MAC, [f"{network}.2/24"], mtu=PASST_MTU)
            # Not a ping: passt answers it only where ping_group_range (icmp(7)) lets it, in a new namespace nowhere.
            await guest.check(f"iperf3 --client {network}.1 {PORT} --bytes 1M")
            prefer(guest.qemu.pid)
            yield _Link(name, guest, f"{network}.1", (True, False), backend, guest.qemu.pid)


async def _qemu_link(name: str, guest: Guest, network: str, backend: int | None) -> _Link:
    await guest.configure(MAC, [f"{network}.2/24"])
    await guest.wait_ping(f"{network}.1")
    prefer(guest.qemu.pid)
    return _Link(name, guest, f"{network}.1", (True, False), backend, guest.qemu.pid)


async def _uml(image: BuiltImage, folder: Path, socket: Path, address: str) -> UmlGuest:
    own = folder / f"uml-{socket.stem}"
    own.mkdir()
    initrd = await asyncio.to_thread(uml_initrd, image, own / "initrd")
    guest = await UmlGuest.boot(initrd, own, name=own.name, cards=[socket])
    await guest.configure(await guest.mac(), [f"{address}/24"])
    return guest


@contextmanager
def _backend_to_tap(place: Place, network: str) -> Iterator[int]:
    """vbackend between a guest and a tap, and the host's iperf3; vbackend's process."""
    assert place.namespace is not None
    tap = f"tap:{place.ifname},netns={place.namespace.name},addr={network}.1/24"
    with vbackend_run(place, ["--cable", f"vhost-user:{place.a}", tap]) as backend, _server(place):
        prefer(backend)
        yield backend


@contextmanager
def _passt(place: Place, network: str) -> Iterator[int]:
    """passt, listening for QEMU; its process. It is told all addresses, since there is no default route to take them
    from (passt(1), --interface), and stays root, since the bench's folder is root's.
    """
    if shutil.which("passt") is None:
        raise BenchError("no passt: `apt-get install passt`")
    assert place.namespace is not None
    place.namespace.up("lo")
    command = ["passt", "--foreground", "--runas", "0", "--socket", str(place.a)]
    command += ["--ipv4-only", "--interface", "lo", "--mac-addr", PASST_MAC, "--dns", "none"]
    command += ["--address", f"{network}.2", "--netmask", "24", "--gateway", f"{network}.1"]
    with running(place.inside(command), place.log) as child:
        until(lambda: "now start qemu" in place.log.read_text(), "passt: start", child, place.log)
        prefer(child.pid)
        yield child.pid


@contextmanager
def _server(place: Place) -> Iterator[None]:
    command = place.inside(["iperf3", "--server", *PORT.split()])
    with running(command, place.folder / "iperf3.log") as child:
        prefer(child.pid)
        yield


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
