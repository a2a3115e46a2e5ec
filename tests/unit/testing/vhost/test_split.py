"""vbackend/testing/vhost/split.py: the bytes in memory are those of VIRTIO 1.2 §2.7."""

import struct
from collections.abc import Iterator

import pytest

from vbackend.testing.vhost.memory import GuestMemory
from vbackend.testing.vhost.ring import INDIRECT, NEXT, WRITE, Buffer, DeviceError, RingFullError, Used
from vbackend.testing.vhost.split import SplitRing


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    with GuestMemory() as made:
        yield made


def descriptor(ring: SplitRing, index: int, table: int | None = None) -> tuple[int, ...]:
    return ring.peek((ring.descriptors if table is None else table) + 16 * index, "QIHH")


def test_a_chain_is_seen_when_published(memory: GuestMemory) -> None:
    ring = SplitRing(memory, 4)
    assert ring.post([Buffer(0x1000, 12), Buffer(0x2000, 60, True)]) == 0
    assert ring.peek(ring.driver, "HHH") == (0, 0, 0)
    ring.publish()
    assert ring.peek(ring.driver, "HHH") == (0, 1, 0)
    assert descriptor(ring, 0) == (0x1000, 12, NEXT, 1)
    assert descriptor(ring, 1) == (0x2000, 60, WRITE, 0)


def test_an_indirect_chain_takes_one_descriptor(memory: GuestMemory) -> None:
    ring = SplitRing(memory, 1)
    ring.post([Buffer(0x1000, 12), Buffer(0x2000, 60), Buffer(0x3000, 1, True)], indirect=True)
    table, length, flags, _ = descriptor(ring, 0)
    assert (length, flags) == (48, INDIRECT)
    assert [descriptor(ring, n, table)[1:] for n in range(3)] == [(12, NEXT, 1), (60, NEXT, 2), (1, WRITE, 0)]


@pytest.mark.parametrize("start", [0, 0xFFFD])
def test_rounds(memory: GuestMemory, start: int) -> None:
    """Ids and indexes come round; the device here reads what the driver wrote and returns it newest first."""
    ring = SplitRing(memory, 4, start=start)
    for turn in range(6):
        ids = [ring.post([Buffer(0x1000, 8, True)]) for _ in range(2)]
        with pytest.raises(RingFullError):
            ring.post([Buffer(0, 1)] * 3)
        ring.publish()
        index = start + 2 * turn
        heads = [ring.peek(ring.driver + 4 + 2 * ((index + n) % 4), "H")[0] for n in range(2)]
        assert heads == ids
        for n, head in enumerate(reversed(heads)):
            ring.poke(ring.device + 4 + 8 * ((index + n) % 4), "II", head, n)
        memory.store(ring.device + 2, index + 2)
        assert ring.used_waiting
        assert ring.reap() == [Used(ids[1], 0), Used(ids[0], 1)]
        assert not ring.used_waiting
        assert ring.base == (index + 2) & 0xFFFF


def test_a_used_index_that_jumps(memory: GuestMemory) -> None:
    ring = SplitRing(memory, 4)
    memory.store(ring.device + 2, 5)
    with pytest.raises(DeviceError, match="used index"):
        ring.reap()


def test_kicks_and_calls_by_flags(memory: GuestMemory) -> None:
    ring = SplitRing(memory, 4)
    assert ring.kick_wanted()
    memory.store(ring.device, 1)
    assert not ring.kick_wanted()
    ring.want_calls(None)
    assert memory.load(ring.driver) == 1
    ring.want_calls(3)
    assert memory.load(ring.driver) == 0


def test_kicks_and_calls_by_index(memory: GuestMemory) -> None:
    ring = SplitRing(memory, 4, event_idx=True)
    memory.store(ring.avail_event, 1)
    wanted = []
    for _ in range(3):
        ring.post([Buffer(0, 1)])
        ring.publish()
        wanted.append(ring.kick_wanted())
    assert wanted == [False, True, False]
    for after, expected in ((0, 0), (2, 2), (None, 0xFFFF)):
        ring.want_calls(after)
        assert memory.load(ring.used_event) == expected


def test_raw_fields(memory: GuestMemory) -> None:
    ring = SplitRing(memory, 4)
    ring.set_descriptor(3, 1 << 63, 0xFFFF_FFFF, 0xFFFF, 0x1234)
    assert memory.read(ring.descriptors + 48, 16) == struct.pack(
        "<QIHH", 1 << 63, 0xFFFF_FFFF, 0xFFFF, 0x1234
    )
    ring.offer(0xBEEF)
    ring.set_index(0x7777)
    assert ring.peek(ring.driver, "HHH") == (0, 0x7777, 0xBEEF)
