"""`queue=` and `rate=` of a unit's port, from the start and live: T4, Q1."""

import asyncio
from pathlib import Path

from tests.conformance.unit_port.lab import HERE, THERE, Lab, unit_lab
from tests.support.accounting import assert_accounts
from tests.support.qemu_peers import eventually
from tests.support.unit_peers import GuestStation, packet

UP = packet(THERE, HERE, bytes(972))  # 1000 bytes
CRAWL = "rate=8,burst=1500"  # two of them at once, and then none for minutes


async def test_a_rate_holds_packets_and_lets_them_go(tmp_path: Path) -> None:
    async with unit_lab(tmp_path, f"{CRAWL},queue=100") as lab:
        guest, program = await lab.station(), await lab.program()
        await guest.send(*[UP] * 50)
        await eventually(lambda: lab.port.tx.frames_in >= 50, "all were offered")
        assert lab.unit.queue_len == lab.port.tx.queued == 48
        assert lab.port.tx.dropped == 0
        await lab.backend.set_port("unit", rate=0)
        assert await program.recv_all(50) == [UP] * 50
        assert lab.unit.queue_len == 0


async def test_what_a_rate_holds_flows_by_itself(tmp_path: Path) -> None:
    async with unit_lab(tmp_path, "rate=800k,burst=1000") as lab:
        guest, program = await lab.station(), await lab.program()
        await guest.send(*[UP] * 20)
        assert await program.recv_all(20) == [UP] * 20


async def test_a_short_queue_is_enough_for_a_program_that_reads(tmp_path: Path) -> None:
    """Frames come in batches longer than the queue; as long as the socket has room, none is lost."""
    async with unit_lab(tmp_path, "queue=1") as lab:
        guest, program = await lab.station(), await lab.program()
        await guest.send(*[UP] * 50)  # the kernel's socket buffer holds 90 of them, read or not
        assert await program.recv_all(50) == [UP] * 50
        assert lab.unit.counters["drops"] == 0


async def test_behind_a_rate_the_queue_drops(tmp_path: Path) -> None:
    async with unit_lab(tmp_path, f"{CRAWL},queue=10") as lab:
        guest, program = await lab.station(), await lab.program()
        await guest.send(*[UP] * 50)
        await eventually(lambda: lab.port.tx.frames_in >= 50, "all were offered")
        unit, tx = lab.unit, lab.port.tx
        assert (unit.queue_len, tx.queued) == (10, 10)
        assert unit.counters["drops"] == unit.counters["collisions"] == tx.drops["queue-full"] == 38
        assert_accounts(lab.backend.snapshot())
        await lab.backend.set_port("unit", rate=0)
        assert await program.recv_all(50 - unit.counters["drops"]) == [UP] * (50 - unit.counters["drops"])


async def test_limits_change_live(tmp_path: Path) -> None:
    async with unit_lab(tmp_path) as lab:
        guest, program = await lab.station(), await lab.program()
        await lab.backend.set_port("unit", rate=8, burst=1500, queue_frames=10)
        assert (lab.unit.queue_limit, lab.port.rate, lab.port.burst) == (10, 8, 1500)
        await offer(lab, guest, 50)
        assert lab.unit.queue_len == 10
        await lab.backend.set_port("unit", queue_frames=40)
        await offer(lab, guest, 50)
        assert (lab.unit.queue_len, lab.unit.queue_limit) == (40, 40)
        await lab.backend.set_port("unit", rate=0)
        left = lab.unit.counters["opackets"]
        assert await program.recv_all(left) == [UP] * left


async def test_the_limit_in_bytes_holds_from_the_start(tmp_path: Path) -> None:
    async with unit_lab(tmp_path, f"{CRAWL},queue=1000,queue-bytes=69632") as lab:
        guest, _ = await lab.station(), await lab.program()
        await offer(lab, guest, 200)
        assert 60 <= lab.unit.queue_len < 70


async def test_a_port_that_is_down(tmp_path: Path) -> None:
    async with unit_lab(tmp_path) as lab:
        guest, program = await lab.station(), await lab.program()
        await lab.backend.set_port("unit", up=False)
        await program.send(packet(HERE, THERE))
        await guest.send(UP)
        await eventually(lambda: lab.port.rx.drops.get("port-down") == 1, "nothing comes from it")
        await eventually(lambda: lab.port.tx.dropped + _lost(lab) >= 1, "nothing goes to it")
        await lab.backend.set_port("unit", up=True)
        await guest.announce()
        await lab.hears(guest, program)


async def offer(lab: Lab, guest: GuestStation, count: int) -> None:
    before = lab.port.tx.frames_in
    for _ in range(count // 50):
        await guest.send(*[UP] * 50)
        await asyncio.sleep(0)
    await eventually(lambda: lab.port.tx.frames_in >= before + count, "all were offered")


def _lost(lab: Lab) -> int:
    """What the guest's port could give to nobody."""
    return next(port for port in lab.backend.snapshot().ports if port.name == "guest2").rx.dropped
