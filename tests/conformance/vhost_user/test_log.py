"""The dirty log of a live migration: the pages that the port writes, no more and no fewer (vhost-user, "Migration")."""

import os
from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from tests.conformance.vhost_user.lab import BAD, Lab, X, end_turn, exchange, expect
from tests.support.frames import frame
from vbackend.testing.vhost.memory import PAGE, DirtyLog, GuestMemory
from vbackend.testing.vhost.nic import HEADER_LEN, NO_FEATURES, Pair
from vbackend.testing.vhost.packed import PackedRing
from vbackend.testing.vhost.ring import DriverRing
from vbackend.testing.vhost.wire import BASIC_PROTOCOL, Feature, Protocol, Request

LAYOUTS = pytest.mark.parametrize("layout", [NO_FEATURES, Feature.RING_PACKED], ids=["split", "packed"])
PROTOCOL = BASIC_PROTOCOL | Protocol.LOG_SHMFD
SIZE = 1024
TOP = 64 << 20
BUFFERS = 32 << 20  # where receive buffers are, pages apart


@pytest.fixture
def log() -> Iterator[DirtyLog]:
    made = DirtyLog(TOP)
    yield made
    made.close()


def pages(address: int, length: int) -> set[int]:
    return set(range(address // PAGE, (address + length - 1) // PAGE + 1))


def ring_pages(ring: DriverRing) -> set[int]:
    """Of the areas that the device writes."""
    if isinstance(ring, PackedRing):
        return pages(ring.device, 4) | pages(ring.descriptors, 16 * SIZE)
    return pages(ring.device, 6 + 8 * SIZE)


@LAYOUTS
def test_used_rings_and_buffers_are_marked(lab: Lab, layout: Feature, log: DirtyLog) -> None:
    memory = GuestMemory([(0, 1 << 20), (BUFFERS, TOP - BUFFERS)])
    with lab.nic("x") as x, lab.front("bad", layout | Feature.MRG_RXBUF, PROTOCOL, memory=memory) as front:
        pair, other = Pair(front, SIZE, rx_chain=(3 * PAGE,)), x.pairs[0]
        places = [BUFFERS + 8 * PAGE * n + PAGE - 100 for n in range(64)]
        pair.use(3 * PAGE, reversed(places))
        pair.start()
        front.set_log(log)
        for queue in front.queues:
            front.set_addr(queue, log=True)
        exchange(pair, BAD, other, X)
        assert log.pages() == set(), "not asked for yet"
        front.set_features(front.features | Feature.LOG_ALL)
        for size in (60, 1514, 5000, 60):
            log.clear()
            place = pair.next_place
            other.send(frame(BAD, X, size=size))
            expect(pair, BAD)
            end_turn(front)
            assert log.pages() == ring_pages(pair.rx.ring) | pages(place, HEADER_LEN + size), size
        log.clear()
        pair.send(frame(X, BAD, size=1514))
        expect(other, X)
        end_turn(front)
        assert log.pages() == ring_pages(pair.tx.ring), "what is only read is not marked"
        front.set_features(front.features & ~Feature.LOG_ALL)
        log.clear()
        exchange(pair, BAD, other, X)
        assert log.pages() == set(), "the migration is over"
    lab.settle()


def test_who_waits_for_the_log_is_told_when_it_changed(lab: Lab, log: DirtyLog) -> None:
    """SET_LOG_FD: one signal for what changed in a turn, none for pages that are marked already."""
    told = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    with lab.nic("x") as x, lab.front("bad", Feature.LOG_ALL, PROTOCOL) as front:
        pair, other = Pair(front, 64), x.pairs[0]
        front.set_log(log)
        front.tell(Request.SET_LOG_FD, fds=[told])
        pair.start()
        for first in (True, False):
            exchange(pair, BAD, other, X, (60,) * 64)  # each buffer once
            end_turn(front)
            with nullcontext() if first else pytest.raises(BlockingIOError):
                assert 0 < os.eventfd_read(told) <= 2 * 64 + 4
        log.clear()
        exchange(pair, BAD, other, X)
        end_turn(front)
        assert os.eventfd_read(told)
        front.tell(Request.SET_LOG_FD)
        log.clear()
        exchange(pair, BAD, other, X)
        end_turn(front)
        assert log.pages()
        with pytest.raises(BlockingIOError):
            os.eventfd_read(told)
    os.close(told)
    lab.settle()
