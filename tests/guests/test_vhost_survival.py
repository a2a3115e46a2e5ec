"""vhost-user: no guest is left behind. Guests, drivers, cables, memory, QEMU and vbackend itself come and go; traffic
goes on without help, and streams that run meanwhile arrive whole.
"""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.guests.pair import Pair, pair
from tests.guests.stream import Stream
from tests.guests.vhost import Card, boot, network
from tests.support.guest import Guest, Guests
from tests.support.run import DEADLINE_S

pytestmark = [pytest.mark.guest, pytest.mark.timeout(240)]

SPLIT: Final = ",packed=off"
PACKED: Final = ",packed=on"
RING: Final = 256  # slots; QEMU's default
DIMM: Final = 128 << 20  # bytes; the least that Linux adds: its memory blocks on x86-64
DRIVER: Final = "/sys/bus/virtio/drivers/virtio_net"


async def test_drivers_and_guests_begin_anew(guests: Guests, tmp_path: Path) -> None:
    async with pair(guests, tmp_path, Card("a", SPLIT), Card("b", PACKED)) as net:
        for anew in (
            f"n=$(basename {DRIVER}/virtio*) && echo $n >{DRIVER}/unbind && echo $n >{DRIVER}/bind",
            "rmmod virtio_net && modprobe virtio_net",
        ):
            await asyncio.gather(*(guest.check(anew) for guest in net.guests))
            await asyncio.gather(net.configure(1), net.configure(2))
            await net.works()

        # The reset button of one; the other one's QEMU is killed, and a new one takes its port.
        await net.guest(2).kill()
        _, net.guests[1] = await asyncio.gather(net.guest(1).reset(), boot(guests, net.card(2), tmp_path, 2))
        await net.configure(1)
        await net.works()
        assert (net.run.port("a").sessions, net.run.port("b").sessions) == (1, 2)
        await net.is_sound()


async def test_streams_outlive_what_stops_their_guests(guests: Guests, tmp_path: Path) -> None:
    async with pair(guests, tmp_path, Card("a", SPLIT), Card("b", PACKED), "-m", "slots=2,maxmem=1G") as net:
        streams = await net.streams()
        for number in (1, 2):
            await _stop(net, number)
            await _unplug_cable(net, number)
            await _set_port_down(net, number)
            await _plug_memory(net, number)
        await asyncio.gather(*(stream.finish() for stream in streams))
        await net.works()
        assert (net.run.port("a").sessions, net.run.port("b").sessions) == (1, 1)
        await net.is_sound()


@pytest.mark.parametrize("keys", [SPLIT, PACKED])
async def test_vbackend_is_killed_under_streams(keys: str, guests: Guests, tmp_path: Path) -> None:
    """The streams take no breath, so that frames are always on their way when it dies: none of their descriptors may
    come back twice.
    """
    async with pair(guests, tmp_path, Card("a", keys), Card("b", keys)) as net:
        streams = await net.streams(breath_us=0)
        for _ in range(3):
            net.flows()
            assert net.run.stop(signal.SIGKILL) == -signal.SIGKILL
            await asyncio.gather(*(net.wait_carrier(number, up=False) for number in (1, 2)))
            net.restart()
            await asyncio.gather(*(net.wait_carrier(number, up=True) for number in (1, 2)))
        net.flows()
        await asyncio.gather(*(stream.finish() for stream in streams))
        await net.works()
        await net.is_sound()


@pytest.mark.parametrize("keys", [SPLIT, PACKED])
async def test_qemu_serves_a_ring_meanwhile(keys: str, guests: Guests, tmp_path: Path) -> None:
    """What the guest sends while vbackend is dead is dropped by QEMU, in a packed ring from where that first began
    (hw/virtio/virtio.c, virtqueue_packed_drop_all): here that is behind some that wait.
    """
    async with pair(guests, tmp_path, Card("a", keys), Card("b", keys)) as net:
        while (until_it_begins_anew := -_sent(net, 1) % (2 * RING)) not in range(2, 5):
            goal = _sent(net, 1) + (until_it_begins_anew - 4) % (2 * RING)
            await _send(net.guest(1), goal - _sent(net, 1))
            net.run.wait_for(lambda goal=goal: _sent(net, 1) >= goal, "all that the guest sent")  # type: ignore[misc]
        os.kill(net.run.pid, signal.SIGSTOP)
        await _send(net.guest(1), 10)
        assert net.run.stop(signal.SIGKILL) == -signal.SIGKILL
        await asyncio.gather(*(net.wait_carrier(number, up=False) for number in (1, 2)))
        net.restart()
        await asyncio.gather(*(net.wait_carrier(number, up=True) for number in (1, 2)))
        await net.works()
        await net.is_sound()


@pytest.mark.parametrize("keys", [SPLIT, PACKED])
async def test_streams_follow_a_guest_to_another_qemu(
    keys: str, newer_qemu: str, guests: Guests, tmp_path: Path
) -> None:
    """It sends and receives while it moves from port a to port c, and leaves one stream unread: that lies where
    vbackend wrote it, and arrives only if the log of dirty pages is complete.

    QEMU before 9.0 loses stores of emulated processors ("physmem: Fix migration dirty bitmap coherency with TCG
    memory access"), so this takes a newer one.
    """
    a, b, card = (Card(name, keys, newer_qemu) for name in "abc")
    async with pair(guests, tmp_path, a, b, spare=[card.port(tmp_path)]) as net:
        source, other = net.guests
        arguments = network(card, tmp_path, 1, guests.image.memory_mib)
        target = await guests.boot(source.name, network=arguments, binary=newer_qemu, incoming=True)
        streams = [*await net.streams(), await Stream.start(other, source, "10.5.0.1")]
        net.flows()
        await streams[2].hold()
        await _migrate(source, target, tmp_path / "migration", between_rounds=streams[2].send_unread)

        for stream in streams:
            stream.follow(source, target)
        net.guests[0], net.cards[0] = target, card
        await source.kill()
        net.flows()
        await streams[2].read()
        await asyncio.gather(*(stream.finish() for stream in streams))
        await net.works()
        await net.is_sound()


async def _stop(net: Pair, number: int) -> None:
    await net.guest(number).qmp.stop()
    await net.is_silent(number)
    await net.guest(number).qmp.cont()
    net.flows()


async def _unplug_cable(net: Pair, number: int) -> None:
    await net.guest(number).qmp.set_link("net0", False)
    await net.wait_carrier(number, up=False)
    await net.guest(number).qmp.set_link("net0", True)
    await net.wait_carrier(number, up=True)
    net.flows()


async def _set_port_down(net: Pair, number: int) -> None:
    net.run.set(net.card(number).name, "down")
    await net.is_silent(number)
    net.run.set(net.card(number).name, "up")
    net.flows()


async def _plug_memory(net: Pair, number: int) -> None:
    """Two modules come; Linux puts buffers into the first from then on, and the second goes again."""
    guest, before = net.guest(number), _shared(net, number)
    for module in (1, 2):
        backend = {"id": f"more{module}", "qom-type": "memory-backend-memfd", "size": DIMM, "share": True}
        await guest.qmp.execute("object-add", backend)
        dimm = {"id": f"dimm{module}", "driver": "pc-dimm", "memdev": f"more{module}"}
        await guest.qmp.execute("device_add", dimm)
        net.run.wait_for(lambda module=module: _shared(net, number) == before + module * DIMM, "more memory")  # type: ignore[misc]
        if module == 1:  # it is above all that was there, and Linux takes the highest first
            blocks = "grep -l offline /sys/devices/system/memory/memory*/state"
            await guest.wait_until(f"for state in $({blocks}); do echo online >$state; done; ! {blocks}")
        net.flows()
    with guest.qmp.events("DEVICE_DELETED") as deleted:
        await guest.qmp.execute("device_del", {"id": "dimm2"})
        await asyncio.wait_for(deleted.get(), DEADLINE_S)
    net.run.wait_for(lambda: _shared(net, number) == before + DIMM, "less memory")
    net.flows()


def _sent(net: Pair, number: int) -> int:
    """Frames that vbackend has had from the guest's ring."""
    vhost = net.run.port(net.card(number).name).vhost
    assert vhost is not None
    assert vhost.rings[1].size == RING
    return vhost.rings[1].frames


async def _send(guest: Guest, count: int) -> None:
    """Send so many small frames to guest b, whose address it knows."""
    address = 'pack("S n C4 x8", 2, 9, 10, 5, 0, 2)'
    await guest.check(f"perl -e 'socket(S, 2, 2, 0); send(S, \"x\", 0, {address}) for 1..{count}'")


def _shared(net: Pair, number: int) -> int:
    """Bytes of the guest's memory that vbackend has."""
    vhost = net.run.port(net.card(number).name).vhost
    return 0 if vhost is None else vhost.memory


async def _migrate(source: Guest, target: Guest, path: Path, between_rounds: Callable[[], Any]) -> None:
    """Live, and in rounds: not more than a page may be left for the end, until there have been enough."""
    await source.check(
        "dd if=/dev/urandom of=block bs=1M count=4; while true; do cat block block >dirt; done &"
    )
    await target.qmp.execute("migrate-incoming", {"uri": f"unix:{path}"})
    one_page = {"downtime-limit": 4, "avail-switchover-bandwidth": 1 << 20}  # ms, bytes/s
    await source.qmp.execute("migrate-set-parameters", {"max-bandwidth": 40 << 20, **one_page})
    await source.qmp.execute("migrate", {"uri": f"unix:{path}"})
    await _wait_round(source, 2)
    await between_rounds()
    await _wait_round(source, 4)
    await source.qmp.execute(
        "migrate-set-parameters", {"downtime-limit": 1000, "avail-switchover-bandwidth": 0}
    )
    await _wait_migration(source, lambda migration: migration["status"] == "completed")


async def _wait_round(source: Guest, number: int) -> None:
    """Or the end: a guest that got no time on a busy machine leaves nothing dirty."""

    def condition(migration: dict[str, Any]) -> bool:
        moved = migration["status"] == "completed"
        return moved or ("ram" in migration and migration["ram"]["dirty-sync-count"] >= number)

    await _wait_migration(source, condition)


async def _wait_migration(source: Guest, condition: Callable[[dict[str, Any]], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            migration: Any = await source.qmp.execute("query-migrate")
            assert migration["status"] != "failed", migration
            if condition(migration):
                return
            await asyncio.sleep(0.01)
