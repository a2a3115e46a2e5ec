"""Rings that stop and start, memory that comes and goes, front-ends and back-ends that die (vhost-user, "Ring states").

No chain is ever returned twice: the driver's books would notice (`DeviceError`).
"""

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.vhost_user.lab import BAD, Lab, X, Y, exchange, expect, vhost_lab
from tests.support.frames import mac, numbered
from tests.support.run import vbackend_run
from vbackend.testing.vhost.frontend import FrontEnd, Queue
from vbackend.testing.vhost.memory import GuestMemory
from vbackend.testing.vhost.nic import NO_FEATURES, Nic, Pair
from vbackend.testing.vhost.wire import BASIC_FEATURES, BASIC_PROTOCOL, Feature, Protocol, Request
from vbackend.vhost_user.announce import announcement

MRG = Feature.MRG_RXBUF
LAYOUTS = pytest.mark.parametrize("layout", [NO_FEATURES, Feature.RING_PACKED], ids=["split", "packed"])


@LAYOUTS
def test_stop_and_start_where_it_stopped(lab: Lab, layout: Feature) -> None:
    """GET_VRING_BASE tells the first chain that was not returned; from there it goes on, both rings at any point."""
    with lab.nic("bad", features=layout, size=16) as bad, lab.nic("x") as x:
        pair, other = bad.pairs[0], x.pairs[0]
        for turn in range(20):
            exchange(pair, BAD, other, X, (60,) * (turn % 7))
            pair.flush()
            for queue in bad.front.queues:
                base = bad.front.stop(queue)
                assert base == queue.ring.base
                assert not lab.ring("bad", queue.index).running
            for queue in bad.front.queues:
                bad.front.start(queue)
        exchange(pair, BAD, other, X, (60, 1514))
    lab.settle()


def test_a_guest_that_moved_is_found_where_it_is(lab: Lab) -> None:
    """SEND_RARP: all hear of it, and the switch knows where to send its frames before it has sent any."""
    protocol = BASIC_PROTOCOL | Protocol.RARP
    moved = mac(77)
    with lab.nic("x") as x, lab.nic("bad", protocol=protocol) as bad, lab.nic("y", protocol=protocol) as y:
        for here, others in ((bad, (x, y)), (y, (x, bad))):
            here.front.send(Request.SEND_RARP, moved + bytes(2))
            for other in others:
                got = other.pairs[0].recv().frame
                assert (got[:12], got[12:14]) == (b"\xff" * 6 + moved, b"\x80\x35")
                assert got == announcement(moved)
            (sent,) = numbered(moved, X, 1, size=60)
            x.pairs[0].send(sent)
            assert here.pairs[0].recv().frame == sent
            lab.run.wait_for(x.pairs[0].reap_sent, "it is sent")
        assert bad.pairs[0].take() is None, "not any more"
    lab.settle()


@LAYOUTS
def test_what_was_sent_while_stopped_is_sent_later(lab: Lab, layout: Feature) -> None:
    with lab.nic("bad", features=layout) as bad, lab.nic("x") as x:
        pair, other = bad.pairs[0], x.pairs[0]
        exchange(pair, BAD, other, X)
        pair.flush()
        bad.front.stop(pair.tx)
        frames = numbered(X, BAD, 20)
        for each in frames:
            pair.queue(each)
        pair.tx.ring.publish()
        os.eventfd_write(pair.tx.kick, 1)
        bad.front.barrier()
        assert pair.reap_sent() == []
        bad.front.start(pair.tx)  # no kick: it looks by itself
        assert [expect(other, X) for _ in frames] == frames
    lab.settle()


@LAYOUTS
def test_a_disabled_ring_moves_nothing(lab: Lab, layout: Feature) -> None:
    with lab.nic("bad", features=layout) as bad, lab.nic("x") as x:
        pair, other, front = bad.pairs[0], x.pairs[0], bad.front
        exchange(pair, BAD, other, X)
        pair.flush()
        front.enable(pair.tx, False)
        (sent,) = numbered(X, BAD, 1)
        pair.send(sent)
        os.eventfd_write(pair.tx.kick, 1)
        front.barrier()
        assert pair.reap_sent() == []
        front.enable(pair.tx)
        assert expect(other, X) == sent
        front.enable(pair.rx, False)
        before = lab.port("bad").tx.drops.get("no-peer", 0)
        other.send(numbered(BAD, X, 1)[0])
        lab.wait_for(lambda: lab.port("bad").tx.drops.get("no-peer", 0) == before + 1, "the frame is dropped")
        front.enable(pair.rx)
        exchange(pair, BAD, other, X)
    lab.settle()


def test_without_protocol_features_rings_begin_enabled(lab: Lab) -> None:
    with GuestMemory() as memory, FrontEnd.connect(lab.path("bad"), memory) as front, lab.nic("x") as x:
        front.negotiate(Feature.VERSION_1, Protocol(0))
        front.set_memory()
        pair = Pair(front)
        pair.start()
        exchange(pair, BAD, x.pairs[0], X)
    lab.settle()


@pytest.mark.parametrize("order", ["size", "base", "addresses", "kick", "call", "memory", "enable"])
def test_steps_in_any_order(lab: Lab, order: str) -> None:
    """Whatever comes last, the ring then runs (`order`: what that is)."""
    with GuestMemory() as memory, FrontEnd.connect(lab.path("bad"), memory) as front, lab.nic("x") as x:
        front.negotiate(BASIC_FEATURES, BASIC_PROTOCOL)
        pair = Pair(front)

        def on_all(step: Callable[[Queue], None]) -> Callable[[], None]:
            def run() -> None:
                for queue in front.queues:
                    step(queue)

            return run

        steps: dict[str, Callable[[], None]] = {
            "size": on_all(front.set_num),
            "base": on_all(front.set_base),
            "addresses": on_all(front.set_addr),
            "call": on_all(front.set_call),
            "kick": on_all(front.set_kick),
            "enable": on_all(front.enable),
            "memory": front.set_memory,
        }
        last = steps.pop(order)
        for step in reversed(steps.values()):
            step()
        last()
        if order == "base":  # a new base stops a ring: only the kick starts it again
            steps["kick"]()
        pair.fill()
        exchange(pair, BAD, x.pairs[0], X)
    lab.settle()


def test_memory_is_added_and_removed_under_running_rings(lab: Lab) -> None:
    protocol = BASIC_PROTOCOL | Protocol.CONFIGURE_MEM_SLOTS
    with lab.nic("bad", protocol=protocol) as bad, lab.nic("x") as x:
        pair, other, front = bad.pairs[0], x.pairs[0], bad.front
        for turn in range(10):
            region = front.memory.add(1 << 32 + turn, 1 << 20)
            front.add_memory(region)
            front.add_memory(region)  # QEMU 7.2 does it once for every pair
            pair.use(1512, [region.guest_address])
            exchange(pair, BAD, other, X, (1500,))  # from the new region
            pair.flush()
            pair.forget(1512)
            front.remove_memory(region)
            front.memory.remove(region)
        exchange(pair, BAD, other, X)
    lab.settle()


def test_front_ends_come_and_go(lab: Lab) -> None:
    """With every layout in turn, each with new memory, some without a word at the end."""
    with lab.nic("x") as x:
        for turn in range(12):
            features = Feature.RING_PACKED if turn % 2 else MRG
            with lab.nic("bad", features=features) as bad:
                exchange(bad.pairs[0], BAD, x.pairs[0], X)
                if turn % 3 == 0:
                    for queue in bad.front.queues:
                        bad.front.stop(queue)
            lab.wait_for(lambda: lab.port("bad").session is None, "it has left")
    lab.settle()


def test_the_driver_leaves_and_comes_back(lab: Lab) -> None:
    """On one connection: rings are stopped, features negotiated anew, rings of another layout are started."""
    with lab.nic("bad") as bad, lab.nic("x") as x:
        front = bad.front
        pair = bad.pairs[0]
        for turn in range(6):
            exchange(pair, BAD, x.pairs[0], X)
            for queue in front.queues:
                front.stop(queue)
                front.enable(queue, False)
            for queue in front.queues:
                queue.close()
            front.queues.clear()
            front.set_features(BASIC_FEATURES | (NO_FEATURES if turn % 2 else Feature.RING_PACKED))
            pair = Pair(front)
            pair.start()
        exchange(pair, BAD, x.pairs[0], X)
    lab.settle()


def test_pairs(tmp_path: Path) -> None:
    """Sixteen of them: each sends, and what answers a flow comes back on the pair that it was sent on."""
    with vhost_lab(tmp_path, "queues=16") as lab, lab.nic("x") as x:
        for count in (1, 4, 16):
            with lab.nic("bad", pairs=count, size=64) as bad:
                for number, pair in enumerate(bad.pairs):
                    own = mac(100 + number)  # flows are told apart by addresses
                    exchange(pair, own, x.pairs[0], X, (60, 1514))
            lab.wait_for(lambda: lab.port("bad").session is None, "it has left")


def test_pairs_that_are_disabled_get_nothing(tmp_path: Path) -> None:
    with vhost_lab(tmp_path, "queues=4") as lab, lab.nic("x") as x, lab.nic("bad", pairs=4) as bad:
        other, front = x.pairs[0], bad.front
        for pair in bad.pairs[1:]:
            exchange(pair, BAD, other, X)
            for queue in (pair.rx, pair.tx):
                front.enable(queue, False)
            answer = numbered(BAD, X, 1)[0]
            other.send(answer)
            assert expect(bad.pairs[0], BAD) == answer
            assert pair.take() is None
            for queue in (pair.rx, pair.tx):
                front.enable(queue)


def test_the_back_end_dials(tmp_path: Path) -> None:
    """QEMU's server=on: it comes back by itself when the front-end starts anew."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "front"))
        listener.listen()
        ports = [f"vhost-user:{tmp_path}/front,dial,name=a", f"vhost-user:{tmp_path}/b"]
        with vbackend_run(tmp_path, *ports) as run:
            for _ in range(3):
                with Nic.connect(listener) as a, Nic.connect(f"{tmp_path}/b") as b:
                    exchange(a.pairs[0], X, b.pairs[0], Y)
                run.wait_for(lambda: run.port("b").session is None, "b has left")


@LAYOUTS
@pytest.mark.parametrize("dial", ["", ",dial"], ids=["listens", "dials"])
def test_the_back_end_is_killed(tmp_path: Path, layout: Feature, dial: str) -> None:
    """In the middle of traffic, four times. The driver goes on with its rings as they are, at the used index.

    Chains are returned in order, which makes that safe: frames that were taken but not returned are sent again, none
    twice in one life, and no chain is returned twice.
    """
    place, lives, batches = str(tmp_path / "front"), 5, (50, 50, 300)
    frames = iter(numbered(Y, X, lives * sum(batches)))
    with socket.socket(socket.AF_UNIX) as listener, GuestMemory() as memory:
        if dial:
            listener.bind(place)
            listener.listen()
        pair: Pair | None = None
        for life in range(lives):
            ports = [f"vhost-user:{place}{dial},name=a", f"vhost-user:{tmp_path}/b{life}"]
            with vbackend_run(tmp_path, *ports) as run, Nic.connect(f"{tmp_path}/b{life}", size=1024) as b:
                b.pairs[0].fill(1000)
                with FrontEnd.accept(listener, memory) if dial else FrontEnd.connect(place, memory) as front:
                    front.negotiate(BASIC_FEATURES | layout)
                    front.set_memory()
                    if pair is None:
                        pair = Pair(front, 512)
                    else:
                        pair.move_to(front)
                    again = len(pair.tx.ring.in_flight)
                    pair.start()
                    sent = []
                    for batch in batches:
                        pair.flush()
                        new = [next(frames) for _ in range(batch)]
                        for each in new:
                            pair.queue(each)
                        sent += new
                    if life == lives - 1:
                        pair.flush()
                    else:
                        if life % 2:
                            os.kill(run.pid, signal.SIGSTOP)  # so that it surely finds no time for them
                        pair.tx.notify()
                        run.stop(signal.SIGKILL)
                        pair.reap_sent()
                    got = [each.frame for each in iter(b.pairs[0].take, None)]
                    assert len(set(got)) == len(got), "nothing twice in one life"
                    assert [each for each in got if each in sent] == sent[: len(got) - again]
                    if life == lives - 1:
                        exchange(pair, X, b.pairs[0], Y)
                        pair.flush()
        assert pair is not None
        assert pair.tx.ring.in_flight == []
