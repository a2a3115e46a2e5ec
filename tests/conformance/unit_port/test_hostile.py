"""Programs that stall, flood, die and lie: the other ports never notice, and nothing leaks."""

import array
import asyncio
import os
import socket
from pathlib import Path

import pytest

from tests.conformance.unit_port.lab import HERE, THERE, Lab, unit_lab
from tests.support.accounting import assert_accounts
from tests.support.fds import open_fds
from tests.support.frames import mac, numbered
from tests.support.qemu_peers import eventually
from tests.support.unit_peers import GuestStation, UnitPeer, packet

UP = packet(THERE, HERE, bytes(1000))


async def fill(lab: Lab, guest: GuestStation, dropped: int = 1) -> None:
    """Send to a program that does not read until `dropped` packets were lost."""
    while lab.unit.counters["drops"] < dropped:
        await guest.send(*[UP] * 50)
        await asyncio.sleep(0)


async def test_a_program_that_stalls(tmp_path: Path) -> None:
    """if_snd fills to its limit, then drops and counts (T4); the others' frames pass, the guest is answered."""
    async with unit_lab(tmp_path, "queue=32") as lab:
        guest, program = await lab.station(), await lab.program()
        await fill(lab, guest, 100)
        unit, tx = lab.unit, lab.port.tx
        assert (unit.queue_len, unit.queue_limit, tx.queued) == (32, 32, 32)
        assert unit.counters["drops"] == unit.counters["collisions"] == tx.drops["queue-full"] >= 100
        announced = 1  # ARP, which ended in the adapter
        assert unit.counters["opackets"] == tx.frames_out - announced + 32
        assert await guest.resolve(HERE) == lab.mac.hex(":")
        other = await lab.station(3)
        frames = numbered(mac(2), mac(3), 500)
        for start in range(0, 500, 50):
            assert await other.channel.send_all(frames[start : start + 50]) == 50
            found: list[bytes] = []
            while len(found) < 50:
                got = await guest.channel.recv()
                found += [got] if got and got[6:12] == mac(3) and got[12:14] == b"\x88\xb5" else []
            assert found == frames[start : start + 50]
        assert_accounts(lab.backend.snapshot())
        here = program.recv_ready()
        assert set(here) == {UP}
        await eventually(lambda: lab.unit.queue_len == 0, "what was queued follows")
        counters = lab.unit.counters
        announced = 3  # with the question, and the other guest
        read = len(here) + len(program.recv_ready())
        assert read == counters["opackets"] == lab.port.tx.frames_out - announced
        await lab.hears(guest, program)


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_program_that_dies_midway(tmp_path: Path, workers: int) -> None:
    async with unit_lab(tmp_path, "queue=32", workers=workers) as lab:
        guest = await lab.station()
        for number in range(1, 11):
            program = await lab.program()
            await program.send(*[packet(HERE, THERE, b"x")] * 20)
            await fill(lab, guest, 10 * number)
            program.close()
            await eventually(lambda: lab.port.session is None, "its end is seen")
            assert_accounts(lab.backend.snapshot())
            assert (lab.unit.queue_len, lab.port.tx.queued) == (0, 0)
        guest.channel.recv_ready()
        await lab.hears(guest, await lab.program())
        assert lab.unit.counters["purged"] == lab.port.tx.drops["peer-gone"]


async def test_a_program_that_floods(tmp_path: Path) -> None:
    """Every message is received or counted, whoever reads slowly."""
    async with unit_lab(tmp_path) as lab:
        guest, program = await lab.station(), await lab.program()
        down = packet(HERE, THERE, bytes(100))
        for _ in range(100):
            await program.send(*[down] * 50)
        await eventually(lambda: lab.port.rx.frames_in == 5000, "all were read")
        assert lab.port.rx.drops == {}
        received = [got for got in guest.channel.recv_ready() if got.endswith(down)]
        assert 0 < len(received) <= 256
        full = next(port for port in lab.backend.snapshot().ports if port.name == "guest2").tx.drops
        assert full["queue-full"] > 0


async def test_empty_messages_and_then_the_end(tmp_path: Path) -> None:
    """An empty message is a write to refuse; the end of the connection reads the same and is none."""
    async with unit_lab(tmp_path) as lab:
        for _ in range(10):
            program = await lab.program()
            before = lab.port.rx.frames_in
            program.send_now(b"")
            await eventually(lambda count=before: lab.port.rx.frames_in == count + 1, "it was refused")  # type: ignore[misc]
            assert lab.port.session is not None
            for _ in range(10):
                program.send_now(b"")
            program.close()
            await eventually(lambda: lab.port.session is None, "its end is seen")
        assert lab.port.rx.drops["runt"] == lab.port.rx.frames_in == lab.unit.counters["ierrors"]


async def test_half_closed(tmp_path: Path) -> None:
    async with unit_lab(tmp_path) as lab:
        program = await lab.program()
        program.sock.shutdown(socket.SHUT_WR)
        await eventually(lambda: lab.port.session is None, "a program that cannot write has left")
        assert await program.expect_eof() == []


async def test_descriptors_passed_along_are_not_kept(tmp_path: Path) -> None:
    async with unit_lab(tmp_path) as lab:
        guest, program = await lab.station(), await lab.program()
        for _ in range(3):  # whatever is opened once and for all is open then
            await lab.hears(guest, program)
        before = len(open_fds())
        reader, writer = os.pipe()
        try:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [reader, writer] * 4).tobytes())
            for number in range(100):
                program.sock.sendmsg([packet(HERE, THERE, b"%d" % number)], [rights])
                assert (await guest.recv()).endswith(b"%d" % number)
        finally:
            os.close(reader)
            os.close(writer)
        assert len(open_fds()) <= before


async def test_a_hundred_sessions_leak_nothing(tmp_path: Path) -> None:
    async with unit_lab(tmp_path) as lab:
        for number in range(100):
            peers = [await lab.program(), await UnitPeer.connect(f"{lab.path}.errors")]
            for peer in peers:
                peer.close()
            await eventually(lambda: lab.port.session is None and lab._unit_port._errors is None, "over")
            if number == 2:
                before = len(open_fds())
        assert len(open_fds()) <= before
