"""Real guests on a VDE switch: QEMU's `-netdev vde`, user-mode Linux's `daemon` and `vde`, a tap by vde_plug2tap.

QEMU ────────┐
UML daemon ──┤ vde:DIR, switch ── tap tap0, 10.5.0.254
UML vde ─────┤
vde_plug2tap ┘
"""

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import Popen

import pytest

from tests.guests.wiring import mac
from tests.support.guest import Guest, Guests
from tests.support.linux import LinuxGuest
from tests.support.netns import Namespace, namespace
from tests.support.run import vbackend_run, wait_until
from tests.support.transfer import Host, Shell, transfer
from tests.support.uml import UmlGuest
from vbackend.ports.parse import parse_port
from vbackend.qemu.netdev import netdev_arguments
from vbackend.qemu.version import QEMU, qemu_version

pytestmark = [
    pytest.mark.guest,
    pytest.mark.root,
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        shutil.which("vde_plug2tap") is None,
        reason="there is no vde_plug2tap: on Debian it is in package vde2",
    ),
]

HOST = "10.5.0.254"


@pytest.fixture
def host() -> Iterator[Namespace]:
    with namespace() as made:
        yield made


@contextmanager
def plug2tap(place: Namespace, switch: Path, address: str) -> Iterator[Popen[bytes]]:
    """vde_plug2tap with a tap in the namespace."""
    with Popen(place.command("vde_plug2tap", "-s", str(switch), "plug0")) as child:
        try:
            wait_until(lambda: "plug0" in place.links(), "the tap of vde_plug2tap")
            place.ip("link", "set", "plug0", "up")
            place.ip("address", "add", address, "dev", "plug0")
            yield child
        finally:
            child.kill()


async def boot_qemu(guests: Guests, switch: Path, name: str, number: int, mtu: int | None = None) -> Guest:
    """With the arguments that `vbackend args` gives."""
    found = netdev_arguments(
        parse_port(f"vde:{switch}"),
        qemu_version(QEMU),
        mac=mac(number),
        model="virtio-net-pci,romfile=" + (f",host_mtu={mtu}" if mtu else ""),
    )
    guest = await guests.boot(name, network=found.arguments)
    await configure(guest, number, mtu)
    return guest


async def boot_uml(initrd: Path, folder: Path, number: int, card: str) -> UmlGuest:
    place = folder / f"uml{number}"
    place.mkdir()
    guest = await UmlGuest.boot(initrd, place, name=f"uml{number}", more=[f"eth0={card}"])
    await configure(guest, number)
    return guest


async def configure(guest: LinuxGuest, number: int, mtu: int | None = None) -> None:
    """10.5.0.NUMBER on its card, and 10.6.0.NUMBER in VLAN 7."""
    name = await guest.configure(mac(number), [f"10.5.0.{number}/24", f"fd05::{number}/64"], mtu=mtu)
    await guest.check(f"modprobe 8021q && ip link add v7 link {name} type vlan id 7")
    await guest.check(f"ip addr add 10.6.0.{number}/24 dev v7 && ip link set v7 up")


async def test_all_kinds_of_clients(uml: Path, guests: Guests, host: Namespace, tmp_path: Path) -> None:
    """Pings, large ones, VLANs and TCP between all of them; then they leave, one after the other."""
    switch = tmp_path / "sw"
    tap = f"tap:tap0,netns={host.name},addr={HOST}/24,addr=fd05::fe/64"
    with vbackend_run(tmp_path, f"vde:{switch}", tap) as run, namespace() as far, ExitStack() as stack:
        qemu, daemon, plug = await asyncio.gather(
            boot_qemu(guests, switch, "qemu", 1),
            boot_uml(uml, tmp_path, 2, f"daemon,{mac(2)},unix,{switch}/ctl"),
            boot_uml(uml, tmp_path, 3, f"vde,{switch},{mac(3)}"),
        )
        async with daemon, plug:
            child = stack.enter_context(plug2tap(far, switch, "10.5.0.4/24"))
            assert len([port for port in run.snapshot().ports if port.parent == "sw"]) == 4
            inside: list[LinuxGuest] = [qemu, daemon, plug]
            for guest in inside:
                for address in ("10.5.0.1", "10.5.0.2", "10.5.0.3", "10.5.0.4", HOST, "fd05::fe"):
                    await guest.wait_ping(address)
                for number in range(1, 4):
                    result = await guest.ping(f"10.6.0.{number}", count=5, size=1468, df=True)
                    assert (result.received, result.duplicates) == (5, 0), f"{guest.name}, VLAN: {result}"
            places: list[tuple[Shell, str]] = [
                *((guest, f"10.5.0.{number}") for number, guest in enumerate(inside, 1)),
                (Host(far), "10.5.0.4"),
                (Host(host), HOST),
            ]
            for sender, _ in places:
                await asyncio.gather(
                    *(
                        transfer(sender, receiver, address)
                        for receiver, address in places
                        if receiver is not sender
                    )
                )
            for port in run.snapshot().ports:
                assert not {"sender", "runt", "oversize"} & port.rx.drops.keys(), port
            await qemu.kill()
            await daemon.kill()
            await plug.close()
            child.kill()
        run.wait_for(lambda: len(run.snapshot().ports) == 2, "all clients have left")
        assert [path.name for path in switch.iterdir() if path.name[0] != "."] == ["ctl"]
    assert not switch.exists()


@pytest.mark.parametrize("mtu", [9000, 65_521])
async def test_jumbo_frames(mtu: int, guests: Guests, host: Namespace, tmp_path: Path) -> None:
    """Between two guests of QEMU and the host's tap, in one piece, tagged ones too."""
    switch = tmp_path / "sw"
    tap = f"tap:tap0,netns={host.name},addr={HOST}/24,mtu={mtu}"
    with vbackend_run(tmp_path, f"vde:{switch}", tap) as run:
        a, _ = await asyncio.gather(
            *(boot_qemu(guests, switch, name, number, mtu) for number, name in enumerate("ab", 1))
        )
        await a.wait_ping("10.5.0.2")
        for address, size in ((HOST, mtu - 28), ("10.5.0.2", mtu - 28), ("10.6.0.2", mtu - 32)):
            result = await a.ping(address, count=5, size=min(size, 65_507 - 32), df=True)
            assert (result.received, result.duplicates) == (5, 0), f"{address}: {result}"
        assert run.port("sw.1").rx.bytes_out > 10 * mtu
