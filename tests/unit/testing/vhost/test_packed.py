"""vbackend/testing/vhost/packed.py: the bytes in memory are those of VIRTIO 1.2 §2.8."""

from collections.abc import Iterator

import pytest

from vbackend.testing.vhost.memory import GuestMemory
from vbackend.testing.vhost.packed import AVAIL, EVENT_DESC, EVENT_DISABLE, EVENT_ENABLE, USED, PackedRing
from vbackend.testing.vhost.ring import INDIRECT, NEXT, WRITE, Buffer, RingFullError, Used


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    with GuestMemory() as made:
        yield made


def descriptor(ring: PackedRing, slot: int, table: int | None = None) -> tuple[int, ...]:
    return ring.peek((ring.descriptors if table is None else table) + 16 * slot, "QIHH")


def finish(ring: PackedRing, slot: int, id_: int, length: int, *, wrap: int = 1) -> None:
    """A device that returns a chain that it wrote into."""
    flags = (AVAIL | USED if wrap else 0) | WRITE
    ring.poke(ring.descriptors + 16 * slot + 8, "IHH", length, id_, flags)


def test_a_batch_is_seen_when_published(memory: GuestMemory) -> None:
    ring = PackedRing(memory, 4)
    ring.post([Buffer(0x1000, 12), Buffer(0x2000, 60, True)])
    ring.post([Buffer(0x3000, 1)])
    assert [descriptor(ring, slot)[3] & AVAIL for slot in range(3)] == [0, AVAIL, 0]
    ring.publish()
    assert descriptor(ring, 0) == (0x1000, 12, 0, AVAIL | NEXT)
    assert descriptor(ring, 1) == (0x2000, 60, 0, AVAIL | WRITE)
    assert descriptor(ring, 2) == (0x3000, 1, 1, AVAIL)


def test_an_indirect_chain_takes_one_slot(memory: GuestMemory) -> None:
    ring = PackedRing(memory, 1)
    ring.post([Buffer(0x1000, 12), Buffer(0x2000, 60, True)], indirect=True)
    ring.publish()
    table, length, _, flags = descriptor(ring, 0)
    assert (length, flags) == (32, AVAIL | INDIRECT)
    assert [descriptor(ring, n, table) for n in range(2)] == [(0x1000, 12, 0, 0), (0x2000, 60, 0, WRITE)]


def test_rounds(memory: GuestMemory) -> None:
    """Chains of two slots in a ring of three: every other one lies across the end."""
    ring = PackedRing(memory, 3)
    slot, wrap = 0, 1
    assert ring.base == 0x8000_8000
    for turn in range(9):
        assert ring.position == (slot, wrap)
        id_ = ring.post([Buffer(0x1000, 8, True), Buffer(0x2000, 8, True)])
        with pytest.raises(RingFullError):
            ring.post([Buffer(0, 1)] * 2)
        ring.publish()
        assert descriptor(ring, slot)[3] & (AVAIL | USED) == (AVAIL if wrap else USED)
        assert not ring.used_waiting
        finish(ring, slot, id_, turn, wrap=wrap)
        assert ring.used_waiting
        assert ring.reap() == [Used(id_, turn)]
        slot, wrap = (slot + 2, wrap) if slot < 1 else (slot - 1, wrap ^ 1)
        assert ring.base == (slot | wrap << 15) * 0x1_0001


def test_a_length_counts_only_where_the_device_wrote(memory: GuestMemory) -> None:
    ring = PackedRing(memory, 2)
    id_ = ring.post([Buffer(0x1000, 8)])
    ring.publish()
    ring.poke(ring.descriptors + 8, "IHH", 77, id_, AVAIL | USED)
    assert ring.reap() == [Used(id_, 0)]


def test_one_descriptor_may_end_a_batch_in_order(memory: GuestMemory) -> None:
    ring = PackedRing(memory, 4, in_order=True)
    ids = [ring.post([Buffer(0x1000, length, True)] * 2) for length in (10, 20)]
    ring.publish()
    finish(ring, 0, ids[1], 7)
    assert ring.reap() == [Used(ids[0], 20), Used(ids[1], 7)]
    assert ring.base == 0


def test_kicks(memory: GuestMemory) -> None:
    ring = PackedRing(memory, 4, event_idx=True)
    assert ring.kick_wanted()
    ring.poke(ring.device, "HH", 0, EVENT_DISABLE)
    assert not ring.kick_wanted()
    ring.poke(ring.device, "HH", 1 | 1 << 15, EVENT_DESC)
    wanted = []
    for _ in range(3):
        ring.post([Buffer(0, 1)])
        ring.publish()
        wanted.append(ring.kick_wanted())
    assert wanted == [False, True, False]


def test_calls(memory: GuestMemory) -> None:
    ring = PackedRing(memory, 4)
    ring.want_calls(3)
    assert ring.peek(ring.driver, "HH") == (0, EVENT_ENABLE)
    ring.want_calls(None)
    assert ring.peek(ring.driver, "HH") == (0, EVENT_DISABLE)
    ring = PackedRing(memory, 4, event_idx=True)
    ring.want_calls(3)
    assert ring.peek(ring.driver, "HH") == (3 | 1 << 15, EVENT_DESC)
    ring.want_calls(5)
    assert ring.peek(ring.driver, "HH") == (1, EVENT_DESC)
