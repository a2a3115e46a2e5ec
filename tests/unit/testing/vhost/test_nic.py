"""vbackend/testing/vhost/nic.py: chains that hold what they should, with the test as the device of its rings."""

import os
import socket
from collections.abc import Iterator, Sequence

import pytest

from vbackend.testing.vhost.frontend import FrontEnd, Queue
from vbackend.testing.vhost.memory import GuestMemory
from vbackend.testing.vhost.nic import HEADER_LEN, PLAIN, Pair, Received, VnetHeader, cut, make_ring
from vbackend.testing.vhost.packed import PackedRing
from vbackend.testing.vhost.ring import NEXT, RingFullError
from vbackend.testing.vhost.split import SplitRing
from vbackend.testing.vhost.wire import Feature

FRAME = bytes(range(200))


@pytest.fixture
def front() -> Iterator[FrontEnd]:
    """Its back-end never answers, and is not asked to."""
    ours, theirs = socket.socketpair()
    with theirs, GuestMemory() as memory, FrontEnd(ours, memory) as made:
        yield made


def parts(queue: Queue, head: int) -> list[tuple[int, int]]:
    """Address and length of each buffer of a chain in the table."""
    found = []
    while True:
        address, length, flags, following = queue.ring.peek(queue.ring.descriptors + 16 * head, "QIHH")
        found.append((address, length))
        if not flags & NEXT:
            return found
        head = following


def finish(queue: Queue, used: Sequence[tuple[int, int]]) -> None:
    ring = queue.ring
    index = ring.memory.load(ring.device + 2)
    for id_, length in used:
        ring.poke(ring.device + 4 + 8 * (index % ring.size), "II", id_, length)
        index += 1
    ring.memory.store(ring.device + 2, index)
    os.eventfd_write(queue.call, 1)


def deliver(pair: Pair, data: bytes, lengths: Sequence[int]) -> None:
    """Write `data` into the oldest chains, so much into each."""
    used = []
    for id_, length in zip(pair.rx.ring.in_flight, lengths, strict=False):
        rest = data[:length]
        for address, room in parts(pair.rx, id_):
            pair.front.memory.write(address, rest[:room])
            rest = rest[room:]
        data = data[length:]
        used.append((id_, length))
    finish(pair.rx, used)


@pytest.mark.parametrize(
    ("total", "lengths", "pieces"),
    [(10, [], [10]), (10, [3, 4], [3, 4, 3]), (10, [12], [10]), (10, [10, 5], [10]), (0, [1], [])],
)
def test_cut(total: int, lengths: list[int], pieces: list[int]) -> None:
    assert cut(total, lengths) == pieces


def test_the_ring_is_what_was_negotiated() -> None:
    with GuestMemory() as memory:
        ring = make_ring(memory, 4, Feature.RING_PACKED | Feature.EVENT_IDX)
        assert isinstance(ring, PackedRing)
        assert (ring.event_idx, ring.in_order) == (True, False)
        assert isinstance(make_ring(memory, 4, Feature.IN_ORDER), SplitRing)


def test_a_header_is_twelve_bytes() -> None:
    header = VnetHeader(1, 2, 3, 4, 5, 6, 7)
    assert header.pack() == bytes.fromhex("01 02 0300 0400 0500 0600 0700")
    assert VnetHeader.unpack(header.pack() + b"more") == header


@pytest.mark.parametrize("cuts", [(), (12,), (1, 2, 3)])
def test_a_frame_is_sent_in_pieces(front: FrontEnd, cuts: tuple[int, ...]) -> None:
    pair = Pair(front, 8, tx_cuts=cuts)
    head = pair.send(FRAME, VnetHeader(flags=1))
    chain = parts(pair.tx, head)
    assert [length for _, length in chain] == cut(HEADER_LEN + len(FRAME), cuts)
    data = b"".join(front.memory.read(*part) for part in chain)
    assert data == VnetHeader(flags=1).pack() + FRAME
    finish(pair.tx, [(head, 0)])
    pair.flush()
    assert parts(pair.tx, pair.send(FRAME))[-1] in chain, "memory is used again"


def test_sending_waits_for_room(front: FrontEnd) -> None:
    pair = Pair(front, 2)
    heads = [pair.queue(FRAME) for _ in range(2)]
    with pytest.raises(RingFullError):
        pair.queue(FRAME)
    finish(pair.tx, [(head, 0) for head in heads])
    pair.send(FRAME)


@pytest.mark.parametrize("chain", [(2048,), (12, 300), (5, 9, 7, 600)])
def test_a_frame_is_received(front: FrontEnd, chain: tuple[int, ...]) -> None:
    pair = Pair(front, 16, rx_chain=chain)
    pair.start()
    posted = len(pair.rx.ring.in_flight)
    assert posted == 16 // len(chain)
    header = PLAIN._replace(num_buffers=1)
    deliver(pair, header.pack() + FRAME, [HEADER_LEN + len(FRAME)])
    assert pair.recv() == Received(header, FRAME, (HEADER_LEN + len(FRAME),))
    assert len(pair.rx.ring.in_flight) == posted, "buffers are posted again"
    with pytest.raises(TimeoutError):
        pair.recv(deadline_s=0)


def test_a_frame_over_several_chains(front: FrontEnd) -> None:
    front.features = Feature.MRG_RXBUF
    pair = Pair(front, 16, rx_chain=(100,))
    pair.start()
    header = PLAIN._replace(num_buffers=3)
    data = header.pack() + FRAME
    deliver(pair, data, [100])
    assert pair.take() is None
    deliver(pair, data[100:], [100, 12])
    assert pair.recv() == Received(header, FRAME, (100, 100, 12))


def test_num_buffers_is_checked(front: FrontEnd) -> None:
    pair = Pair(front)
    pair.start()
    deliver(pair, PLAIN.pack() + FRAME, [HEADER_LEN + len(FRAME)])
    with pytest.raises(AssertionError, match="num_buffers=0"):
        pair.recv()


def test_places_are_used_as_given_and_forgotten(front: FrontEnd) -> None:
    pair = Pair(front, 16, rx_chain=(300,))
    pair.use(300, [0x9000, 0x8000])
    pair.fill(1)
    assert pair.next_place == 0x8000
    pair.forget(300)
    pair.fill(2)
    assert parts(pair.rx, pair.rx.ring.in_flight[1])[0][0] not in (0x8000, 0x9000)


def test_rings_go_on_on_another_connection(front: FrontEnd) -> None:
    """What came back before is kept, what is in flight stays so."""
    pair = Pair(front, 8)
    pair.fill(4)
    heads = [pair.queue(FRAME) for _ in range(3)]
    finish(pair.tx, [(heads[0], 0)])
    deliver(pair, PLAIN._replace(num_buffers=1).pack() + FRAME, [HEADER_LEN + len(FRAME)])
    ours, theirs = socket.socketpair()
    with theirs, FrontEnd(ours, front.memory) as other:
        pair.move_to(other)
        assert [queue.ring for queue in other.queues] == [queue.ring for queue in front.queues]
        assert pair.tx.ring.in_flight == heads[1:]
        assert (pair.tx.ring.base, pair.rx.ring.base) == (1, 1)
        assert pair.recv().frame == FRAME


def test_anything_can_be_sent(front: FrontEnd) -> None:
    pair = Pair(front, 8, tx_cuts=(4, 0))
    assert [length for _, length in parts(pair.tx, pair.queue_raw(b""))] == [0]
    head = pair.queue_raw(b"abcdefg")
    assert b"".join(front.memory.read(*part) for part in parts(pair.tx, head)) == b"abcdefg"
