"""Frames of every size through rings of every kind, between two drivers that behave (VIRTIO 1.2 §2.7, §2.8, §5.1.6)."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from tests.conformance.vhost_user.lab import BAD, Lab, X, exchange, expect
from tests.support.frames import MIN_FRAME, frame, numbered
from vbackend.testing.vhost.memory import GuestMemory
from vbackend.testing.vhost.nic import HEADER_LEN, NO_FEATURES, Pair
from vbackend.testing.vhost.wire import Feature

SIZES = (MIN_FRAME, 15, 59, 60, 61, 1514, 2036, 2037, 9014, 65_535, 65_549)
LARGE = (HEADER_LEN + SIZES[-1],)  # a buffer for any frame
BURST = 120
EXTRAS = (Feature.INDIRECT_DESC, Feature.EVENT_IDX, Feature.MRG_RXBUF, Feature.IN_ORDER)
KINDS = [
    Feature(layout | sum(chosen))
    for layout in (NO_FEATURES, Feature.RING_PACKED)
    for chosen in itertools.product(*((NO_FEATURES, each) for each in EXTRAS))
]


def talk(lab: Lab, features: Feature, *, batch: int, sizes: Sequence[int] = SIZES, **options: Any) -> None:
    """Frames of all sizes both ways, then many, `batch` at a time with one kick."""
    indirect = Feature.INDIRECT_DESC in features
    with (
        lab.nic("bad", features=features, indirect=indirect, **options) as bad,
        lab.nic("x", features=Feature.MRG_RXBUF, rx_chain=(1536,)) as x,
    ):
        one, other = bad.pairs[0], x.pairs[0]
        exchange(one, BAD, other, X, sizes)
        one.flush()
        frames = numbered(X, BAD, BURST)
        for start in range(0, BURST, batch):
            for each in frames[start : start + batch]:
                one.queue(each)
            one.flush()
        assert [expect(other, X) for _ in frames] == frames
    lab.settle()


@pytest.mark.parametrize("features", KINDS, ids=lambda each: each.name.replace("|", "-") if each else "plain")
def test_kinds_of_rings(lab: Lab, features: Feature) -> None:
    rx_chain = (1, 5, 6, 1033) if Feature.MRG_RXBUF in features else LARGE
    talk(lab, features, batch=60, rx_chain=rx_chain, tx_cuts=(HEADER_LEN, 20))


@pytest.mark.parametrize("layout", [NO_FEATURES, Feature.RING_PACKED], ids=["split", "packed"])
@pytest.mark.parametrize("size", [1, 2, 64, 1024, 32_768])
def test_sizes_of_rings(lab: Lab, layout: Feature, size: int) -> None:
    """Every frame in one piece, so that a ring of one descriptor does."""
    talk(lab, layout, batch=min(size, BURST), size=size, rx_chain=LARGE)


@pytest.mark.parametrize("size", [3, 7, 100, 32_767])
def test_packed_rings_have_any_size(lab: Lab, size: int) -> None:
    features = Feature.RING_PACKED | Feature.EVENT_IDX
    talk(lab, features, batch=min(size // 3, BURST), size=size, rx_chain=LARGE, tx_cuts=(12, 20))


@pytest.mark.parametrize("start", [0xFFF0, 0x7FFF])
def test_indexes_wrap(lab: Lab, start: int) -> None:
    talk(lab, Feature.EVENT_IDX, batch=8, size=16, rx_chain=LARGE, split_start=start)


@pytest.mark.parametrize(
    ("rx_chain", "tx_cuts"),
    [
        ((13,), (1,) * 12),
        ((12, 1, 1999), (13,)),
        ((HEADER_LEN, 70_000), (11, 1, 1, 1)),
        ((69_999, 1), (HEADER_LEN + MIN_FRAME - 1,)),
    ],
    ids=str,
)
def test_buffers_of_odd_sizes(lab: Lab, rx_chain: tuple[int, ...], tx_cuts: tuple[int, ...]) -> None:
    sizes = (14, 15, 60, 700) if sum(rx_chain) < 20 else SIZES
    talk(lab, Feature.MRG_RXBUF, batch=10, sizes=sizes, rx_chain=rx_chain, tx_cuts=tx_cuts)


def test_buffers_across_adjacent_regions(lab: Lab) -> None:
    """Regions that touch each other are one piece of memory to the guest, in files of their own."""
    step, room, size = 1 << 20, HEADER_LEN + 1514, 1000
    memory = GuestMemory([(step * n, step) for n in range(8)])
    seams = [step * n for n in range(1, 8)]
    with lab.nic("x") as x, lab.front("bad", memory=memory) as front:
        pair, other = Pair(front, 4, rx_chain=(room,)), x.pairs[0]
        pair.use(room, [seam - 700 for seam in seams[:4]])
        pair.use(HEADER_LEN + size, [seam - 700 for seam in seams[4:]])
        pair.start()
        exchange(pair, BAD, other, X, [size] * 10)
    lab.settle()


def test_a_frame_that_fits_no_buffer_is_dropped_and_counted(lab: Lab) -> None:
    """Without MRG_RXBUF a frame has one chain (§5.1.6.3.1)."""
    with lab.nic("bad", rx_chain=(HEADER_LEN + 1514,)) as bad, lab.nic("x") as x:
        one, other = bad.pairs[0], x.pairs[0]
        before = lab.port("bad").tx.drops.get("oversize", 0)
        exchange(one, BAD, other, X, (1514,))
        other.send(frame(BAD, X, size=1515))
        exchange(one, BAD, other, X, (1514,))
        assert lab.port("bad").tx.drops["oversize"] == before + 1
    lab.settle()


@pytest.mark.parametrize("size", [0, 1, HEADER_LEN - 1, HEADER_LEN, HEADER_LEN + MIN_FRAME - 1])
def test_what_is_no_frame_comes_back_and_is_counted(lab: Lab, size: int) -> None:
    """The chain is returned like any other; nothing is sent."""
    with lab.nic("bad") as bad, lab.nic("x") as x:
        one, other = bad.pairs[0], x.pairs[0]
        exchange(one, BAD, other, X)
        before = lab.port("bad").rx.drops.get("runt", 0)
        one.queue_raw(bytes(size))
        one.flush()
        exchange(one, BAD, other, X)
        assert lab.port("bad").rx.drops["runt"] == before + 1
    lab.settle()


def test_num_buffers_counts_the_chains_of_a_frame(lab: Lab) -> None:
    """§5.1.6.4.1: all but the last are full."""
    with lab.nic("bad", features=Feature.MRG_RXBUF, rx_chain=(100,)) as bad, lab.nic("x") as x:
        x.pairs[0].send(frame(BAD, X, size=250))
        got = bad.pairs[0].recv()
        assert got.header.num_buffers == 3
        assert got.lengths == (100, 100, 62)
    lab.settle()
