"""A driver that lies in its rings: the ring is stopped with a reason, and nobody else notices.

Each lie is told in both directions where it can be: the port reads odd rings, and has frames for the even ones all
the while. The reasons are those of `vbackend show`.
"""

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from tests.conformance.vhost_user.lab import Lab
from vbackend.testing.vhost.frontend import FrontEnd, Queue, RefusedError
from vbackend.testing.vhost.memory import GuestMemory
from vbackend.testing.vhost.nic import NO_FEATURES, Pair, make_ring
from vbackend.testing.vhost.packed import AVAIL, USED, PackedRing
from vbackend.testing.vhost.ring import INDIRECT, NEXT, WRITE, DriverRing
from vbackend.testing.vhost.split import SplitRing
from vbackend.testing.vhost.wire import Feature, Request, vring_state

SIZE = 8
MEMORY = 1 << 20  # bytes, from address 0
DATA = 0x8_0000  # a good place for a buffer
TABLE = 0x9_0000  # and for an indirect table
HUGE = 0xFFFF_FFFF

Chain = Sequence[tuple[int, int, int]]  # address, length, flags without NEXT


def put(ring: DriverRing, chain: Chain, write: int) -> None:
    """Publish a chain as it is, its buffers to be written or not."""
    parts = [
        (address, length, flags | (0 if flags & INDIRECT else write)) for address, length, flags in chain
    ]
    if isinstance(ring, PackedRing):
        ring.offer(parts, 0)
    elif isinstance(ring, SplitRing):
        for at, (address, length, flags) in enumerate(parts):
            more = NEXT if at < len(parts) - 1 else 0
            ring.set_descriptor(at, address, length, flags | more, at + 1 if more else 0)
        ring.offer(0)
    ring.publish()


def table(ring: DriverRing, entries: Sequence[tuple[int, int, int, int]], write: int) -> None:
    """Write an indirect table at TABLE, of (address, length, flags, next)."""
    for at, (address, length, flags, following) in enumerate(entries):
        words = (0, flags | write) if isinstance(ring, PackedRing) else (flags | write, following)
        ring.poke(TABLE + 16 * at, "QIHH", address, length, *words)


def bare_rings(front: FrontEnd, size: int = SIZE) -> tuple[Queue, Queue]:
    """A pair of empty rings, running and enabled."""
    queues = [front.add(make_ring(front.memory, size, front.features)) for _ in range(2)]
    for queue in queues:
        front.start(queue)
        front.enable(queue)
    return queues[0], queues[1]


def lies(
    lab: Lab, features: Feature, index: int, tell: Callable[[DriverRing, int], None], reason: str
) -> None:
    """Tell a lie in ring `index` (0: to the guest, 1: from it); see it stopped, told and survived."""
    with (
        lab.undisturbed(),
        GuestMemory([(0, MEMORY)]) as memory,
        lab.front("bad", features, memory=memory) as front,
    ):
        queue = bare_rings(front)[index]
        tell(queue.ring, WRITE if index == 0 else 0)
        os.eventfd_write(queue.kick, 1)
        lab.wait_problem("bad", index, reason)
        lab.wait_for(queue.errors, "a signal that the ring has an error")
        assert lab.port("bad").session is not None, "only the ring was stopped"
        # Started anew with an honest ring, it works.
        front.queues.clear()
        pair = Pair(front, SIZE)
        pair.start()
        pair.send(b"\xff" * 12 + bytes(48))
        pair.flush()
        pair.recv()
        queue.close()


@dataclass(frozen=True)
class Lie:
    """A chain, or what `tell` does to the ring, and a piece of the reason."""

    name: str
    reason: str
    chain: Chain = ()
    indirect: bool = False
    entries: Sequence[tuple[int, int, int, int]] = ()
    backwards: bool = False

    def tell(self, ring: DriverRing, write: int) -> None:
        write ^= WRITE if self.backwards else 0
        table(ring, self.entries, write)
        put(ring, self.chain, write)


OUTSIDE = "outside guest memory"
TABLE_LEN = "an indirect table is empty"
LIES = [
    Lie("nowhere", OUTSIDE, [(MEMORY, 60, 0)]),
    Lie("last-address", OUTSIDE, [((1 << 64) - 1, 60, 0)]),
    Lie("wraps", OUTSIDE, [((1 << 64) - 30, 60, 0)]),
    Lie("sign-bit", OUTSIDE, [(1 << 63, 60, 0)]),
    Lie("beyond-the-end", OUTSIDE, [(MEMORY - 59, 60, 0)]),
    Lie("second-part-nowhere", OUTSIDE, [(DATA, 60, 0), (MEMORY + 1, 1, 0)]),
    Lie("wrong-way", "the other way round", [(DATA, 60, 0)], backwards=True),
    Lie("not-negotiated", "was not negotiated", [(TABLE, 16, INDIRECT)]),
    Lie("table-empty", TABLE_LEN, [(TABLE, 0, INDIRECT)], indirect=True),
    Lie("table-half", TABLE_LEN, [(TABLE, 24, INDIRECT)], indirect=True),
    Lie("table-too-long", TABLE_LEN, [(TABLE, 16 * (SIZE + 1), INDIRECT)], indirect=True),
    Lie("table-4-gib", TABLE_LEN, [(TABLE, HUGE & ~15, INDIRECT)], indirect=True),
    Lie("table-nowhere", OUTSIDE, [(MEMORY - 8, 16, INDIRECT)], indirect=True),
    Lie("part-nowhere", OUTSIDE, [(TABLE, 16, INDIRECT)], True, [(MEMORY, 60, 0, 0)]),
]


LAYOUTS = pytest.mark.parametrize("layout", [NO_FEATURES, Feature.RING_PACKED], ids=["split", "packed"])
DIRECTIONS = pytest.mark.parametrize("index", [0, 1], ids=["rx", "tx"])


@DIRECTIONS
@LAYOUTS
@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.name)
def test_chains(lab: Lab, layout: Feature, index: int, lie: Lie) -> None:
    extra = Feature.INDIRECT_DESC if lie.indirect else NO_FEATURES
    lies(lab, layout | extra, index, lie.tell, lie.reason)


@LAYOUTS
@pytest.mark.parametrize(
    "chain",
    [[(0, MEMORY, 0)], [(DATA, HUGE, 0)], [(0, 20_000, 0)] * 4, [(DATA, 60, 0), (DATA, HUGE, 0)]],
    ids=["long", "4-gib", "together", "together-4-gib"],
)
def test_more_bytes_than_a_frame(lab: Lab, layout: Feature, chain: Chain) -> None:
    """Only from the guest: it may give as much room as it likes."""
    lies(lab, layout, 1, lambda ring, write: put(ring, chain, write), "more bytes than any frame")


def split_lie(act: Callable[[SplitRing, int], None]) -> Callable[[DriverRing, int], None]:
    def tell(ring: DriverRing, write: int) -> None:
        assert isinstance(ring, SplitRing)
        act(ring, write)

    return tell


def head(number: int) -> Callable[[SplitRing, int], None]:
    def act(ring: SplitRing, _: int) -> None:
        ring.offer(number)
        ring.publish()

    return act


def linked(*descriptors: tuple[int, int, int]) -> Callable[[SplitRing, int], None]:
    """Descriptors of (length, flags, next) from the first on."""

    def act(ring: SplitRing, write: int) -> None:
        for at, (length, flags, following) in enumerate(descriptors):
            ring.set_descriptor(at, DATA, length, flags | write, following)
        ring.offer(0)
        ring.publish()

    return act


def in_table(*descriptors: tuple[int, int, int]) -> Callable[[SplitRing, int], None]:
    def act(ring: SplitRing, write: int) -> None:
        table(ring, [(DATA, *each) for each in descriptors], write)
        put(ring, [(TABLE, 16 * len(descriptors), INDIRECT)], write)

    return act


@DIRECTIONS
@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (lambda ring, _: ring.set_index(SIZE + 1), "more chains are available"),
        (lambda ring, _: ring.set_index(0x8000), "more chains are available"),
        (lambda ring, _: ring.set_index(0xFFFF), "more chains are available"),
        (head(SIZE), "the head of a chain"),
        (head(0xFFFF), "the head of a chain"),
        (linked((8, NEXT, SIZE)), "a descriptor's successor"),
        (linked((8, NEXT, 0xFFFF)), "a descriptor's successor"),
        (linked((8, NEXT, 0)), "loops"),
        (linked((0, NEXT, 0)), "loops"),
        (linked((8, NEXT, 1), (8, NEXT, 0)), "loops"),
        (in_table((8, NEXT, 0)), "loops"),
        (in_table((0, NEXT, 1), (0, NEXT, 0)), "loops"),
        (in_table((16, INDIRECT, 0)), "in an indirect table"),
        (in_table((8, NEXT, 1)), "a descriptor's successor"),
        (in_table((8, NEXT, 0xFFFF)), "a descriptor's successor"),
        (linked((8, NEXT, 1), (16, INDIRECT | NEXT, 2)), "not the last of its chain"),
    ],
)
def test_split_rings(lab: Lab, index: int, act: Callable[[SplitRing, int], None], reason: str) -> None:
    lies(lab, Feature.INDIRECT_DESC, index, split_lie(act), reason)


@DIRECTIONS
@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        ([(DATA, 8, 0)] * (SIZE + 1), "loops"),
        ([(DATA, 0, 0)] * (SIZE + 1), "loops"),
        ([(DATA, 8, 0), (TABLE, 16, INDIRECT)], "not the last of its chain"),
    ],
    ids=["loop", "empty-loop", "table-in-chain"],
)
def test_packed_rings(lab: Lab, index: int, chain: Chain, reason: str) -> None:
    lies(
        lab,
        Feature.RING_PACKED | Feature.INDIRECT_DESC,
        index,
        lambda ring, write: put(ring, chain, write),
        reason,
    )


@LAYOUTS
def test_empty_descriptors_are_no_lie(lab: Lab, layout: Feature) -> None:
    """The specification does not rule them out: they are returned, and are no frame."""
    with lab.undisturbed(), lab.front("bad", layout) as front:
        pair = Pair(front, SIZE, tx_cuts=(0, 0, 12, 0))
        pair.start()
        for data in (b"", bytes(12), bytes(12 + 60)):
            pair.queue_raw(data)
            pair.flush()
        assert lab.ring("bad", 1).problem == ""


@LAYOUTS
@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("size", 0),
        ("size", 32_769),
        ("size", 1 << 16),
        ("size", HUGE),
        ("descriptors", 8),
        ("driver", 1),
        ("device", 2),
    ],
)
def test_rings_that_cannot_be(lab: Lab, layout: Feature, what: str, value: int) -> None:
    """Sizes and addresses that make no sense: refused before the ring runs, and the session is over."""
    with lab.undisturbed(), lab.front("bad", layout) as front:
        queue = front.add(make_ring(front.memory, SIZE, front.features))
        if what == "size":
            with pytest.raises((RefusedError, EOFError)):
                front.tell(Request.SET_VRING_NUM, vring_state(0, value))
        else:
            setattr(queue.ring, what, getattr(queue.ring, what) + value)
            with pytest.raises((RefusedError, EOFError)):
                front.start(queue)
        front.expect_end()
        lab.wait_end("bad", "SET_VRING")


@pytest.mark.parametrize("size", [3, 1000])
def test_a_split_ring_is_a_power_of_two(lab: Lab, size: int) -> None:
    with lab.undisturbed(), lab.front("bad") as front:
        queue = front.add(SplitRing(front.memory, size))
        with pytest.raises(RefusedError):
            front.start(queue)
        front.expect_end()
        lab.wait_end("bad", "power of two")


@LAYOUTS
@pytest.mark.parametrize("event_idx", [NO_FEATURES, Feature.EVENT_IDX], ids=["flags", "event-idx"])
def test_what_changes_while_it_is_read(lab: Lab, layout: Feature, event_idx: Feature) -> None:
    """Fields flip between good and bad while the port reads them; a ring that was stopped is started anew."""
    chance = random.Random(4)
    features = layout | event_idx | Feature.INDIRECT_DESC
    with lab.undisturbed(), lab.front("bad", features) as front:
        queues = bare_rings(front)
        stops = 0
        for _ in range(200):
            for queue in queues:
                if queue.errors():
                    stops += 1
                    front.set_kick(queue)
                for _ in range(20):
                    _flip(queue.ring, WRITE if queue.index == 0 else 0, chance)
                os.eventfd_write(queue.kick, 1)
        assert stops > 10, "most of it was a lie"


def _flip(ring: DriverRing, write: int, chance: random.Random) -> None:
    """Change one thing in a ring, to something that is good, or nearly."""
    slot = chance.randrange(SIZE)
    address = chance.choice((DATA, TABLE, 0, (16 << 20) - 30, 1 << 40, (1 << 64) - 1))
    length = chance.choice((0, 1, 16, 60, 72, 128, 1526, 66_000, HUGE))
    flags = chance.choice((0, NEXT, INDIRECT, WRITE, INDIRECT | NEXT, 0xFFFF)) ^ write
    if isinstance(ring, PackedRing):
        ring.set_descriptor(
            slot, address, length, chance.getrandbits(16), flags | chance.choice((AVAIL, USED, 0))
        )
        ring.poke(ring.driver, "HH", chance.getrandbits(16), chance.getrandbits(2))
    elif isinstance(ring, SplitRing):
        ring.set_descriptor(slot, address, length, flags, chance.choice((slot, slot + 1, 0, 0xFFFF)))
        ring.memory.store(ring.driver + 4 + 2 * slot, chance.choice((slot, slot, slot, SIZE)))
        ring.set_index(ring.base + chance.choice((0, 1, 2, SIZE, SIZE + 1)))
        ring.poke(ring.used_event, "H", chance.getrandbits(16))
    table(ring, [(DATA, 60, flags & ~INDIRECT, 1), (address, length, flags, 0)], write)


@LAYOUTS
def test_rings_that_lie_over_each_other(lab: Lab, layout: Feature) -> None:
    """Both rings and their buffers are one piece of memory, and everything in it points at itself."""
    features = layout | Feature.INDIRECT_DESC
    with lab.undisturbed(), lab.front("bad", features) as front:
        ring = make_ring(front.memory, SIZE, features)
        queues = front.add(ring), front.add(ring)
        for queue in queues:
            front.start(queue)
            front.enable(queue)
        for turn in range(100):
            for queue in queues:
                put(ring, [(ring.descriptors, 16 * SIZE, 0), (ring.device, 16, 0)], WRITE if turn % 2 else 0)
                os.eventfd_write(queue.kick, 1)
                if queue.errors():
                    front.set_kick(queue)
