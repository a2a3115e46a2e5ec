"""vbackend/testing/vhost/frontend.py: what it says, to a back-end that is the other end of a socket pair."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vbackend.testing.vhost.frontend import FrontEnd, Queue, RefusedError
from vbackend.testing.vhost.memory import DirtyLog, GuestMemory
from vbackend.testing.vhost.split import SplitRing
from vbackend.testing.vhost.wire import (
    BASIC_FEATURES,
    BASIC_PROTOCOL,
    NEED_REPLY,
    REPLY,
    VERSION,
    Feature,
    Message,
    Protocol,
    Request,
    memory_table,
    message,
    receive,
    send,
    u64,
    vring_addr,
    vring_state,
)


@pytest.fixture
def ends() -> Iterator[tuple[FrontEnd, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    with theirs, GuestMemory() as memory, FrontEnd(ours, memory) as front:
        yield front, theirs


def heard(sock: socket.socket) -> Message:
    """The next message, its descriptors closed."""
    got = receive(sock)
    for fd in got.fds:
        os.close(fd)
    return got


def answered(act: Callable[[], object], sock: socket.socket, *values: int | None) -> list[Message]:
    """Run `act` while a back-end answers each message with the next value, if any; returns what it heard."""
    got: list[Message] = []

    def serve() -> None:
        for value in values:
            got.append(heard(sock))
            if value is not None:
                send(sock, message(got[-1].request, u64(value), flags=VERSION | REPLY))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        act()
    finally:
        thread.join(10)
    return got


def queue_of(front: FrontEnd) -> Queue:
    return front.add(SplitRing(front.memory, 8))


def test_negotiation(ends: tuple[FrontEnd, socket.socket]) -> None:
    front, sock = ends
    offers = int(BASIC_FEATURES | Feature.MQ), int(BASIC_PROTOCOL)
    said = answered(front.negotiate, sock, *offers, None, 0, 0)
    assert said == [
        Message(Request.GET_FEATURES, VERSION, b""),
        Message(Request.GET_PROTOCOL_FEATURES, VERSION, b""),
        Message(Request.SET_PROTOCOL_FEATURES, VERSION, u64(BASIC_PROTOCOL)),
        Message(Request.SET_OWNER, VERSION | NEED_REPLY, b""),
        Message(Request.SET_FEATURES, VERSION | NEED_REPLY, u64(BASIC_FEATURES)),
    ]


def test_what_is_not_offered_is_not_taken(ends: tuple[FrontEnd, socket.socket]) -> None:
    front, sock = ends
    with pytest.raises(AssertionError, match=r"not offered: .*VERSION_1"):
        answered(front.negotiate, sock, int(Feature.PROTOCOL_FEATURES))


def test_steps_of_a_ring(ends: tuple[FrontEnd, socket.socket]) -> None:
    front, sock = ends
    queue = queue_of(front)
    front.start(queue, base=5)
    front.enable(queue)
    front.set_call(queue, -1)
    user, ring = front.memory.user_address, queue.ring
    addresses = vring_addr(0, user(ring.descriptors), user(ring.device), user(ring.driver))
    expected: list[tuple[int, bytes, int]] = [
        (Request.SET_VRING_NUM, vring_state(0, 8), 0),
        (Request.SET_VRING_BASE, vring_state(0, 5), 0),
        (Request.SET_VRING_ADDR, addresses, 0),
        (Request.SET_VRING_KICK, u64(0), 1),
        (Request.SET_VRING_CALL, u64(0), 1),
        (Request.SET_VRING_ERR, u64(0), 1),
        (Request.SET_VRING_ENABLE, vring_state(0, 1), 0),
        (Request.SET_VRING_CALL, u64(0x100), 0),
    ]
    for request, payload, fds in expected:
        got = heard(sock)
        assert (got.request, got.payload, len(got.fds)) == (request, payload, fds)


def test_memory_is_described(ends: tuple[FrontEnd, socket.socket]) -> None:
    front, sock = ends
    region = front.memory.add(1 << 32, 4096)
    front.set_memory()
    got = heard(sock)
    assert got.payload == memory_table([each.wire for each in front.memory.regions])
    assert len(got.fds) == 2
    front.add_memory(region)
    front.remove_memory(region)
    assert [len(heard(sock).fds) for _ in range(2)] == [1, 0]


def test_refusals_and_hanging_up(ends: tuple[FrontEnd, socket.socket]) -> None:
    front, sock = ends
    front.protocol = Protocol.REPLY_ACK
    with pytest.raises(RefusedError, match="SET_OWNER: 1"):
        answered(lambda: front.tell(Request.SET_OWNER), sock, 1)
    sock.shutdown(socket.SHUT_WR)
    with pytest.raises(EOFError):
        front.tell(Request.SET_OWNER)
    front.expect_end()


def test_a_base_and_a_log_are_answered(ends: tuple[FrontEnd, socket.socket]) -> None:
    front, sock = ends
    queue = queue_of(front)
    bases: list[int] = []
    answered(lambda: bases.append(front.stop(queue)), sock, 0x8007_8005 << 32)
    assert bases == [0x8007_8005]
    log = DirtyLog(1 << 20)
    try:
        (got,) = answered(lambda: front.set_log(log), sock, 0)
        assert len(got.fds) == 1
    finally:
        log.close()


def test_events_of_a_queue(ends: tuple[FrontEnd, socket.socket]) -> None:
    queue = queue_of(ends[0])
    assert queue.notify()
    assert os.eventfd_read(queue.kick) == 1
    queue.ring.memory.store(queue.ring.device, 1)
    assert not queue.notify()
    assert (queue.calls(), queue.errors()) == (0, 0)
    os.eventfd_write(queue.err, 2)
    assert queue.errors() == 2
    os.eventfd_write(queue.call, 1)
    queue.wait_call(time.monotonic() + 10)
    with pytest.raises(TimeoutError):
        queue.wait_call(time.monotonic())


def test_dialling_and_listening(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener, GuestMemory() as memory:
        listener.bind(path)
        listener.listen()
        with FrontEnd.connect(path, memory) as dialled:
            with FrontEnd.accept(listener, memory) as accepted:
                accepted.send(Request.GET_FEATURES)
                assert heard(dialled.sock).request == Request.GET_FEATURES
            dialled.expect_end()
