"""Frames of a VDE client: each datagram is one, of any size, with its tags, in order; slow clients delay nobody."""

import asyncio
import os
from pathlib import Path

import pytest

from tests.conformance.vde.lab import Lab, vde_lab
from tests.support.frames import BROADCAST, MAX_FRAME, MIN_FRAME, frame, mac, numbered, vlan_frame
from tests.support.qemu_peers import eventually
from tests.support.vde_peers import FakeVdeClient

SIZES = [MIN_FRAME, 60, 1514, 1518, 9018, 65_535, 65_550, MAX_FRAME]


@pytest.mark.parametrize("size", SIZES)
async def test_every_size_both_ways(lab: Lab, size: int) -> None:
    with await lab.plug("a") as a:
        there, back = frame(BROADCAST, mac(1), size=size), frame(mac(1), mac(2), size=size)
        await a.send(there)
        assert await lab.channel.recv() == there
        assert await lab.channel.send(back)
        assert await a.recv() == back


async def test_what_is_no_frame_is_counted(lab: Lab) -> None:
    with await lab.plug("a") as a:
        for size in (0, 1, MIN_FRAME - 1, MAX_FRAME + 1, 100_000):
            await a.send(bytes(size))
        await a.send(frame(BROADCAST, mac(1)))
        assert await lab.channel.recv() == frame(BROADCAST, mac(1))
        assert lab.ports[0].rx.drops == {"runt": 3, "oversize": 2}


async def test_tags_stay_and_addresses_are_learned(lab: Lab) -> None:
    with await lab.plug("a") as a, await lab.plug("b") as b:
        for vid in (0, 1, 100, 4095):
            tagged = vlan_frame(BROADCAST, mac(1), vid, b"tagged")
            await a.send(tagged)
            assert await b.recv() == await lab.channel.recv() == tagged
        await b.send(frame(mac(1), mac(2), b"known"))
        assert await a.recv() == frame(mac(1), mac(2), b"known")
        await eventually(lambda: len(lab.backend.snapshot().segments[0].fdb) == 2, "both are learned")
        assert lab.channel.recv_ready() == []


async def test_a_client_that_sends_by_address(lab: Lab) -> None:
    """As user-mode Linux: its socket has an abstract name of 107 bytes and stays unconnected."""
    name = b"\0\0\0\x12\x34" + os.urandom(103)
    with await FakeVdeClient.plug(lab.directory, name, connected=False) as a, await lab.plug("b") as b:
        await a.send_by_address(frame(BROADCAST, mac(1)))
        assert await b.recv() == frame(BROADCAST, mac(1))
        await b.send(frame(mac(1), mac(2)))
        assert await a.recv() == frame(mac(1), mac(2))


async def test_order_is_kept_in_a_flood(tmp_path: Path) -> None:
    async with vde_lab(tmp_path, ",queue=4096") as lab:
        with await lab.plug("a") as a, await lab.plug("b") as b:
            await b.send(frame(BROADCAST, mac(2)))
            assert await a.recv()
            sent = numbered(mac(2), mac(1), 2000)

            async def send() -> None:
                for each in sent:
                    await a.send(each)

            sending = asyncio.create_task(send())
            assert [await b.recv() for _ in sent] == sent
            await sending


async def test_a_client_that_does_not_read_delays_nobody(tmp_path: Path) -> None:
    async with vde_lab(tmp_path, ",queue=16") as lab:
        with await lab.plug("a") as a, await lab.plug("lazy") as lazy, await lab.plug("b") as b:
            count = 600  # more than its socket holds
            sent = numbered(BROADCAST, mac(1), count, size=9018)
            for each in sent:
                await a.send(each)
                assert await b.recv() == each
            await eventually(
                lambda: sum(port.tx.frames_in for port in lab.ports) >= 2 * count, "all are decided"
            )
            slow = lab.ports[1]
            assert slow.tx.queued == 16
            assert slow.tx.drops["queue-full"] == count - 16 - slow.tx.frames_out
            held = slow.tx.frames_out + 16
            assert [await lazy.recv() for _ in range(held)] == sent[:held]
            await a.send(sent[0])
            assert await lazy.recv() == sent[0]
