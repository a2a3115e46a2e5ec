"""Kicks and calls: one for a batch, none that nobody wants, none when nothing happens.

VIRTIO 1.2 §2.7.7 and §2.7.10 for split rings, §2.8.10 for packed ones.
"""

import os

import pytest

from tests.conformance.vhost_user.lab import BAD, Lab, X, Y, end_turn, exchange, expect
from tests.support.frames import frame, numbered
from vbackend.testing.vhost.nic import NO_FEATURES, Nic
from vbackend.testing.vhost.wire import Feature

KINDS = pytest.mark.parametrize(
    "features",
    [NO_FEATURES, Feature.EVENT_IDX, Feature.RING_PACKED, Feature.RING_PACKED | Feature.EVENT_IDX],
    ids=["split", "split-event-idx", "packed", "packed-event-idx"],
)
BATCH = 50


def end_turns(*nics: Nic) -> None:
    for nic in nics:
        end_turn(nic.front)


@KINDS
def test_one_call_for_a_batch(lab: Lab, features: Feature) -> None:
    with lab.nic("bad", features=features) as bad, lab.nic("x", features=features) as x:
        one, other = bad.pairs[0], x.pairs[0]
        exchange(one, BAD, other, X)
        for _ in range(5):
            one.flush()
            end_turns(bad, x)
            for queue in (one.tx, other.rx):
                queue.ring.want_calls()
                queue.calls()
            for each in numbered(X, BAD, BATCH):
                one.queue(each)
            one.tx.notify()
            lab.wait_for(lambda: one.tx.ring.used_waiting, "the batch is sent")
            end_turns(bad, x)
            assert [expect(other, X)[14:18] for _ in range(BATCH)] == [
                n.to_bytes(4, "big") for n in range(BATCH)
            ]
            assert (one.tx.calls(), other.rx.calls()) == (1, 1)
    lab.settle()


@KINDS
def test_no_call_that_nobody_wants(lab: Lab, features: Feature) -> None:
    with lab.nic("bad", features=features) as bad, lab.nic("x", features=features) as x:
        one, other = bad.pairs[0], x.pairs[0]
        exchange(one, BAD, other, X)
        one.flush()
        end_turns(bad, x)
        for queue in (one.tx, other.rx):
            queue.ring.want_calls(None)
            queue.calls()
        for each in numbered(X, BAD, BATCH):
            one.queue(each)
            one.tx.notify()
            lab.wait_for(one.reap_sent, "the frame is sent")
            lab.wait_for(other.take, "the frame is there")
        end_turns(bad, x)
        assert (one.tx.calls(), other.rx.calls()) == (0, 0)
    lab.settle()


@pytest.mark.parametrize("layout", [NO_FEATURES, Feature.RING_PACKED], ids=["split", "packed"])
def test_a_call_at_the_chain_that_was_named(lab: Lab, layout: Feature) -> None:
    """EVENT_IDX: no call for the nine before it, one when it is passed, none after."""
    with lab.nic("bad", features=layout | Feature.EVENT_IDX) as bad:
        pair = bad.pairs[0]
        pair.send(frame(X, BAD, size=60))
        pair.flush()
        end_turns(bad)
        pair.tx.ring.want_calls(9)
        pair.tx.calls()
        for n in range(20):
            pair.queue(frame(X, BAD, size=60))
            pair.tx.notify()
            lab.wait_for(lambda: pair.tx.ring.used_waiting, "the frame is sent")
            pair.reap_sent()
            end_turns(bad)
            assert pair.tx.calls() == (1 if n == 9 else 0), n
    lab.settle()


@KINDS
def test_kicks_are_wanted_only_while_something_waits(lab: Lab, features: Feature) -> None:
    with lab.nic("bad", features=features, size=16) as bad, lab.nic("x") as x:
        pair, other = bad.pairs[0], x.pairs[0]
        exchange(pair, BAD, other, X)
        pair.flush()
        end_turns(bad)
        assert not pair.rx.ring.kick_wanted(), "it has buffers, and no frames"
        before = lab.port("bad").tx.frames_in
        frames = numbered(BAD, X, 40)
        for each in frames:
            other.send(each)
        lab.wait_for(lambda: lab.port("bad").tx.frames_in == before + 40, "all have come")
        lab.wait_for(lambda: lab.port("bad").tx.queued == 24, "16 fit")
        assert [expect(pair, BAD) for _ in frames] == frames, "each refill is noticed"
    lab.settle()


def test_silence(lab: Lab) -> None:
    """While others talk, an idle guest hears nothing; kicks without frames wake nobody but the port."""
    with lab.nic("bad") as bad, lab.nic("x") as x, lab.nic("y") as y:
        pair = bad.pairs[0]
        exchange(pair, BAD, x.pairs[0], X)
        exchange(x.pairs[0], X, y.pairs[0], Y)
        pair.flush()
        end_turns(bad, x, y)
        for queue in bad.front.queues:
            queue.ring.want_calls()
            queue.calls()
        calls = [lab.ring("bad", queue.index).calls for queue in bad.front.queues]
        exchange(x.pairs[0], X, y.pairs[0], Y, (60,) * 200)
        for queue in bad.front.queues:
            for _ in range(20):
                os.eventfd_write(queue.kick, 1)
        end_turns(bad)
        assert [queue.calls() for queue in bad.front.queues] == [0, 0]
        assert [lab.ring("bad", queue.index).calls for queue in bad.front.queues] == calls
    lab.settle()


@KINDS
def test_a_ring_without_a_kick_is_polled(lab: Lab, features: Feature) -> None:
    with lab.nic("bad", features=features) as bad, lab.nic("x") as x:
        pair = bad.pairs[0]
        for queue in bad.front.queues:
            bad.front.set_kick(queue, -1)
        for each in numbered(X, BAD, 20):
            pair.queue(each)
            pair.tx.ring.publish()
            assert expect(x.pairs[0], X) == each
    lab.settle()


def test_what_was_missed_is_announced_on_a_new_call(lab: Lab) -> None:
    """QEMU exchanges the descriptor when a guest masks its interrupt."""
    with lab.nic("bad") as bad:
        pair = bad.pairs[0]
        bad.front.set_call(pair.tx, -1)
        pair.tx.calls()
        pair.queue(frame(X, BAD, size=60))
        pair.tx.notify()
        lab.wait_for(pair.reap_sent, "the frame is sent")
        bad.front.set_call(pair.tx)
        assert pair.tx.calls() == 1
    lab.settle()
