"""Front-ends other than QEMU's own cards: user-mode Linux, DPDK's virtio-user, the boot ROM's iPXE.

Each reaches a tap of the host, 10.5.0.254 in a namespace, through a switch.
"""

import asyncio
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guests.vhost import Card, boot_uml, configure, network
from tests.support.guest import Guest
from tests.support.netboot import NetworkBoot, netboot
from tests.support.netns import Namespace, namespace
from tests.support.run import vbackend_run
from tests.support.testpmd import dpdk_testpmd
from tests.support.transfer import Host, transfer
from vbackend.images import BuiltImage

pytestmark = [pytest.mark.guest, pytest.mark.root, pytest.mark.timeout(120)]

HOST = "10.5.0.254"
PINGS = ("-n", "-q", "-c", "20", "-i", "0.02", "-w", "10", "-p", "a55a")  # the payload is checked


def pinged(host: Namespace) -> int:
    """Answers until there were twenty; with a deadline, late ones count."""
    said = host.run("ping", *PINGS, "10.5.0.9", check=False)
    found = re.search(r"(\d+) received", said)
    assert found is not None, said
    return int(found[1])


@pytest.fixture
def host() -> Iterator[Namespace]:
    with namespace() as made:
        yield made


def tap(host: Namespace) -> str:
    return f"tap:tap0,netns={host.name},addr={HOST}/24,addr=fd05::fe/64"


@pytest.mark.parametrize("keys", ["", ",packed=off,offloads=off"], ids=["packed", "split"])
async def test_user_mode_linux(keys: str, uml: Path, host: Namespace, tmp_path: Path) -> None:
    """Two of them: pings, TCP between all three with hashes; one is halted, one killed, and one comes back."""
    ports = [f"vhost-user:{tmp_path}/{name}.sock,name={name}{keys}" for name in "ab"]
    with vbackend_run(tmp_path, *ports, tap(host)) as run:
        a, b = await asyncio.gather(
            *(boot_uml(uml, tmp_path, name, number) for number, name in enumerate("ab", 1))
        )
        async with a, b:
            for address in ("10.5.0.2", "fd05::2", HOST, "fd05::fe"):
                await a.wait_ping(address)
                result = await a.ping(address, count=10, size=3000)
                assert (result.received, result.duplicates) == (10, 0), f"{address}: {result}"
            places = ((a, "10.5.0.1"), (b, "10.5.0.2"), (Host(host), HOST))
            await asyncio.gather(
                *(
                    transfer(sender, receiver, address, size=4 << 20)
                    for sender, _ in places
                    for receiver, address in places
                    if sender is not receiver
                )
            )
            vhost = run.port("a").vhost
            assert vhost is not None
            assert ("RING_PACKED" in vhost.features) is not bool(keys)
            await a.kill()
            run.wait_for(lambda: run.port("a").state == "listening", "the port without its guest")
            await b.close()
            async with await boot_uml(uml, tmp_path, "a", 1, home="again") as a:
                await a.wait_ping(HOST)
                assert run.port("a").sessions == 2


# keys of the port, arguments of the device, queues
DPDK = [
    (",packed=off", "", 1),
    ("", ",packed_vq=1,in_order=1", 1),
    (",queues=2", ",packed_vq=1,queues=2", 2),
]


@pytest.mark.usefixtures("dpdk")
@pytest.mark.parametrize(("keys", "device", "queues"), DPDK)
def test_dpdk(keys: str, device: str, queues: int, host: Namespace, tmp_path: Path) -> None:
    ports = [f"vhost-user:{tmp_path}/a.sock,name=a{keys}", tap(host)]
    vdev = f"net_virtio_user0,path={tmp_path}/a.sock{device}"
    with (
        vbackend_run(tmp_path, *ports) as run,
        dpdk_testpmd(tmp_path, vdev, mode="icmpecho", queues=queues) as pmd,
    ):
        pmd.command("start")
        assert pinged(host) >= 20
        assert pmd.stats()[0].received >= 20
        vhost = run.port("a").vhost
        assert vhost is not None
        assert len(vhost.rings) == 2 * queues
        assert sum(ring.calls for ring in vhost.rings) == 0, "it polls"


@pytest.mark.usefixtures("dpdk")
@pytest.mark.parametrize("layout", ["", ",packed_vq=1"], ids=["split", "packed"])
def test_dpdk_that_listens(layout: str, host: Namespace, tmp_path: Path) -> None:
    """A vbackend that was killed comes back to its rings as they are, whatever DPDK says about them."""
    ports = [f"vhost-user:{tmp_path}/a.sock,name=a,dial", tap(host)]
    vdev = f"net_virtio_user0,path={tmp_path}/a.sock,server=1{layout}"
    with dpdk_testpmd(tmp_path, vdev, mode="icmpecho", wait=False) as pmd:
        with vbackend_run(tmp_path, *ports) as run:
            pmd.wait_ready()
            pmd.command("start")
            assert pinged(host) >= 20
            run.stop(signal.SIGKILL)
        with vbackend_run(tmp_path, *ports) as run:
            run.wait_connected("a")
            assert pinged(host) >= 20


@pytest.mark.usefixtures("dpdk")
def test_dpdk_with_itself(tmp_path: Path) -> None:
    """Frames go round between two cards of one process until it is told to stop; none is lost on the way."""
    ports = [f"vhost-user:{tmp_path}/{name}.sock,name={name}" for name in "ab"]
    vdevs = [
        f"net_virtio_user{at},path={tmp_path}/{name}.sock,mac=52:54:00:00:00:0{at}{layout}"
        for at, (name, layout) in enumerate((("a", ",packed_vq=1"), ("b", "")))
    ]
    with (
        vbackend_run(tmp_path, "--cable", *ports) as run,
        dpdk_testpmd(tmp_path, *vdevs, mode="io") as pmd,
    ):
        pmd.command("start tx_first 1")
        run.wait_for(lambda: run.port("a").rx.frames_in > 100_000, "frames that go round")
        pmd.command("stop")
        assert pmd.stats()[1].received > 50_000


async def test_boot_rom(image: BuiltImage, host: Namespace, artifacts: Path) -> None:
    """iPXE knows neither mergeable buffers nor indirect descriptors nor events, and polls; Linux takes over from it."""
    card = Card("pxe")
    folder = artifacts / "pxe"
    folder.mkdir()
    with (
        vbackend_run(folder, card.port(folder), tap(host)) as run,
        netboot(host, "tap0", HOST, image, folder),
    ):
        arguments = network(card, folder, 1, image.memory_mib, rom=True)
        async with await Guest.boot(NetworkBoot.of(image), folder, network=arguments) as guest:
            await configure(guest, card, 1)
            await guest.wait_ping(HOST)
            assert run.port("pxe").tx.bytes_out > image.initrd.stat().st_size
