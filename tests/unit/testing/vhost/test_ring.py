"""vbackend/testing/vhost/ring.py: what both layouts share, on a split ring whose device is the test."""

from collections.abc import Iterator

import pytest

from vbackend.testing.vhost.memory import GuestMemory
from vbackend.testing.vhost.ring import Buffer, DeviceError, RingFullError, Used, need_event
from vbackend.testing.vhost.split import SplitRing


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    with GuestMemory() as made:
        yield made


@pytest.mark.parametrize(
    ("event", "new", "old", "needed"),
    [
        (0, 1, 0, True),
        (1, 1, 0, False),
        (5, 10, 5, True),
        (9, 10, 5, True),
        (10, 10, 5, False),
        (4, 10, 5, False),
        (0xFFFF, 1, 0xFFFE, True),
        (0, 0, 0, False),
    ],
)
def test_need_event(event: int, new: int, old: int, needed: bool) -> None:
    assert need_event(event, new, old) is needed


def finish(ring: SplitRing, *used: tuple[int, int]) -> None:
    """A device that returns these chains."""
    index = ring.memory.load(ring.device + 2)
    for id_, length in used:
        ring.poke(ring.device + 4 + 8 * (index % ring.size), "II", id_, length)
        index += 1
    ring.memory.store(ring.device + 2, index)


@pytest.mark.parametrize("in_order", [False, True])
def test_lies_of_the_device(memory: GuestMemory, in_order: bool) -> None:
    ring = SplitRing(memory, 4, in_order=in_order)
    first = ring.post([Buffer(0x100, 10, True)])
    finish(ring, (first, 10))
    assert ring.reap() == [Used(first, 10)]
    finish(ring, (first, 10))
    with pytest.raises(DeviceError, match="not in flight"):
        ring.reap()
    ring = SplitRing(memory, 4, in_order=in_order)
    ring.post([Buffer(0x100, 10, True), Buffer(0x200, 5)])
    finish(ring, (ring.in_flight[0], 11))
    with pytest.raises(DeviceError, match="11 bytes"):
        ring.reap()


def test_one_entry_may_end_a_batch_in_order(memory: GuestMemory) -> None:
    ring = SplitRing(memory, 4, in_order=True)
    ids = [ring.post([Buffer(0x100, length, True)]) for length in (10, 20, 30)]
    finish(ring, (ids[1], 7))
    assert ring.reap() == [Used(ids[0], 10), Used(ids[1], 7)]
    assert ring.in_flight == [ids[2]]


def test_a_table_is_used_again(memory: GuestMemory) -> None:
    ring = SplitRing(memory, 1)
    buffers = [Buffer(0x100, 1)] * 3
    before = memory.allocate(1)
    for _ in range(3):
        finish(ring, (ring.post(buffers, indirect=True), 0))
        with pytest.raises(RingFullError):
            ring.post(buffers, indirect=True)
        assert len(ring.reap()) == 1
    assert memory.allocate(1) - before < 2 * 16 * len(buffers)
