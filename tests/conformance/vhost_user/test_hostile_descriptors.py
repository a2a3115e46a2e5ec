"""Kick, call and error descriptors that are full, block, are odd or are closed: the port never waits for one."""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.conformance.vhost_user.lab import BAD, Lab
from tests.support.frames import frame
from vbackend.testing.vhost.frontend import FrontEnd, RefusedError
from vbackend.testing.vhost.nic import Pair
from vbackend.testing.vhost.wire import NO_FD, Request, message, send, u64

FULL = (1 << 64) - 2  # of an eventfd's counter

Step = Callable[[FrontEnd, int], None]
KICK: Step = lambda front, fd: front.set_kick(front.queues[1], fd)  # noqa: E731
CALL: Step = lambda front, fd: front.set_call(front.queues[1], fd)  # noqa: E731
ERR: Step = lambda front, fd: front.set_err(front.queues[1], fd)  # noqa: E731
STEPS = pytest.mark.parametrize("step", [KICK, CALL, ERR], ids=["kick", "call", "err"])


@contextmanager
def closing(*fds: int) -> Iterator[None]:
    try:
        yield
    finally:
        for fd in fds:
            os.close(fd)


@contextmanager
def running(lab: Lab) -> Iterator[tuple[FrontEnd, Pair]]:
    with lab.undisturbed(), lab.front("bad") as front:
        pair = Pair(front)
        pair.start()
        yield front, pair


def forwards(lab: Lab, front: FrontEnd, pair: Pair) -> None:
    """Frames still go both ways; the test looks for them without calls, and kicks with another descriptor."""
    front.set_kick(pair.tx)
    for _ in range(20):
        pair.queue(frame(b"\xff" * 6, BAD, size=60))
        pair.tx.ring.publish()
        os.eventfd_write(pair.tx.kick, 1)
        lab.wait_for(pair.reap_sent, "the frame was taken")
        lab.wait_for(pair.take, "a frame from the others")
        pair.fill()
        os.eventfd_write(pair.rx.kick, 1)


def full_eventfd() -> tuple[int, ...]:
    """Blocking, and with room for nothing."""
    fd = os.eventfd(0, os.EFD_CLOEXEC)
    os.eventfd_write(fd, FULL)
    return (fd,)


def fill(fd: int) -> None:
    os.set_blocking(fd, False)
    try:
        while True:
            os.write(fd, bytes(4096))
    except BlockingIOError:
        os.set_blocking(fd, True)


def full_pipe() -> tuple[int, ...]:
    reader, writer = os.pipe()
    fill(writer)
    return writer, reader


def full_socket() -> tuple[int, ...]:
    ours, theirs = socket.socketpair()
    fill(theirs.fileno())
    return theirs.detach(), ours.detach()


def pipe_without_reader() -> tuple[int, ...]:
    reader, writer = os.pipe()
    os.close(reader)
    return (writer,)


def socket_without_peer() -> tuple[int, ...]:
    ours, theirs = socket.socketpair()
    ours.close()
    return (theirs.detach(),)


@pytest.mark.parametrize("step", [CALL, ERR], ids=["call", "err"])
@pytest.mark.parametrize(
    "make", [full_eventfd, full_pipe, full_socket, pipe_without_reader, socket_without_peer]
)
def test_a_descriptor_nobody_can_write_to(lab: Lab, step: Step, make: Callable[[], tuple[int, ...]]) -> None:
    """It may be taken or refused; nothing waits for it, and there is no SIGPIPE."""
    fds = make()
    with closing(*fds), running(lab) as (front, pair):
        try:
            step(front, fds[0])
        except RefusedError:
            front.expect_end()
            return
        forwards(lab, front, pair)
        pair.tx.ring.memory.store(
            pair.tx.ring.driver + 2, 0x8000
        )  # an index that jumps: the error is signalled
        os.eventfd_write(pair.tx.kick, 1)
        lab.wait_problem("bad", 1, "more chains")


def test_a_call_that_blocks_again(lab: Lab) -> None:
    """Flags belong to the open file, which the front-end has too."""
    with running(lab) as (front, pair):
        for _ in range(10):
            pair.tx.calls()
            os.eventfd_write(pair.tx.call, FULL)
            os.set_blocking(pair.tx.call, True)
            pair.queue(frame(b"\xff" * 6, BAD, size=60))
            pair.tx.ring.publish()
            os.eventfd_write(pair.tx.kick, 1)
            lab.wait_for(pair.reap_sent, "the frame was taken")
        os.set_blocking(pair.tx.call, False)
        front.barrier()


def odd_files() -> list[tuple[str, Callable[[], int]]]:
    return [
        ("memfd", lambda: os.memfd_create("odd")),
        ("directory", lambda: os.open("/", os.O_RDONLY)),
        ("null", lambda: os.open("/dev/null", os.O_RDWR)),
        ("full", lambda: os.open("/dev/full", os.O_RDWR)),
        ("path", lambda: os.open("/", os.O_PATH)),
    ]


@STEPS
@pytest.mark.parametrize("make", [make for _, make in odd_files()], ids=[name for name, _ in odd_files()])
def test_odd_files_are_refused(lab: Lab, step: Step, make: Callable[[], int]) -> None:
    fd = make()
    with closing(fd), running(lab) as (front, _):
        with pytest.raises((RefusedError, EOFError)):
            step(front, fd)
        front.expect_end()
        lab.wait_end("bad", "descriptor")


@pytest.mark.parametrize("end", ["reader", "writer", "closed"])
def test_a_kick_that_is_a_pipe(lab: Lab, end: str) -> None:
    """Also the wrong end of it, or one whose writer has gone, which stays readable for ever: no reason to spin."""
    reader, writer = os.pipe()
    with closing(reader), running(lab) as (front, pair):
        with closing(writer):
            if end != "reader":
                pair.queue(frame(b"\xff" * 6, BAD, size=60))
                pair.tx.ring.publish()
            front.set_kick(pair.tx, writer if end == "writer" else reader)
            if end == "reader":
                pair.queue(frame(b"\xff" * 6, BAD, size=60))
                pair.tx.ring.publish()
                os.write(writer, bytes(8))
            lab.wait_for(pair.reap_sent, "a kick was noticed, or not needed")
        forwards(lab, front, pair)
        assert lab.ring("bad", 1).kicks < 100


def test_all_descriptors_are_one(lab: Lab) -> None:
    """Each call is a kick, which finds nothing: it must not go round for ever."""
    with running(lab) as (front, pair):
        for queue in front.queues:
            front.set_call(queue, pair.tx.kick)
            front.set_err(queue, pair.tx.kick)
        forwards(lab, front, pair)
        kicks = sum(lab.ring("bad", queue.index).kicks for queue in front.queues)
        assert kicks < 1000


def test_descriptors_come_and_go_under_traffic(lab: Lab) -> None:
    with running(lab) as (front, pair):
        for turn in range(100):
            for queue in front.queues:
                front.set_call(queue, -1 if turn % 2 else None)
                front.set_kick(queue, -1 if turn % 3 == 0 else None)
                front.set_err(queue, -1 if turn % 5 == 0 else None)
        forwards(lab, front, pair)


@pytest.mark.parametrize("request_", [Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR])
@pytest.mark.parametrize(
    ("word", "fds"), [(1, 0), (1 | NO_FD, 1), (1 | NO_FD, 253), (1, 2), (1, 253), (99, 1), (99 | NO_FD, 0)]
)
def test_the_wrong_number_of_descriptors(lab: Lab, request_: Request, word: int, fds: int) -> None:
    with running(lab) as (front, pair):
        front.send(request_, u64(word), [pair.tx.err] * fds)
        front.expect_end()
        lab.wait_end("bad", request_.name)


def test_every_request_with_253_descriptors(lab: Lab) -> None:
    """Whatever the request is, none of them stays open."""
    for request in Request:
        with lab.undisturbed(), lab.front("bad") as front, open(os.devnull) as null:  # noqa: PTH123
            send(front.sock, message(request, bytes(8)), [null.fileno()] * 253)
            try:
                front.barrier()
            except (EOFError, AssertionError):
                front.expect_end()


def test_this_test_can_fill_descriptors() -> None:
    """What the tests above rely on: writing to them without waiting is impossible."""
    for make in (full_eventfd, full_pipe, full_socket):
        fds = make()
        with closing(*fds):
            os.set_blocking(fds[0], False)
            with pytest.raises(BlockingIOError) as caught:
                os.write(fds[0], (1).to_bytes(8, "little"))
            assert caught.value.errno == errno.EAGAIN
