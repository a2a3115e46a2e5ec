"""A peer of the control socket that does not speak the protocol, stops in the middle, or does not listen."""

import os
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.conformance.vhost_user.lab import Lab
from vbackend.testing.vhost.nic import Pair
from vbackend.testing.vhost.wire import (
    HEADER,
    NEED_REPLY,
    REPLY,
    VERSION,
    Feature,
    Protocol,
    Request,
    message,
    receive,
    send,
    u64,
    vring_addr,
    vring_state,
)

GREETING = message(Request.GET_FEATURES)


@contextmanager
def dialled(lab: Lab) -> Iterator[socket.socket]:
    """A connection on which nothing has been said."""
    with lab.undisturbed(), socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(lab.path("bad"))
        yield sock


def answered(sock: socket.socket) -> bool:
    """Whether the other side still answers; if not, it has hung up."""
    try:
        send(sock, GREETING)
        while receive(sock).request != Request.GET_FEATURES:
            pass
    except EOFError:
        return False
    return True


@pytest.mark.parametrize(
    "header",
    [
        HEADER.pack(Request.GET_FEATURES, 0, 0),
        HEADER.pack(Request.GET_FEATURES, 2, 0),
        HEADER.pack(Request.GET_FEATURES, 3, 0),
        HEADER.pack(Request.GET_FEATURES, VERSION | REPLY, 0),
        HEADER.pack(0, VERSION, 0),
        HEADER.pack(99, VERSION, 0),
        HEADER.pack(0xFFFF_FFFF, VERSION, 0),
        HEADER.pack(Request.SET_FEATURES, VERSION, 0xFFFF_FFFF),
        HEADER.pack(Request.SET_FEATURES, VERSION, 1 << 31),
        HEADER.pack(Request.SET_MEM_TABLE, VERSION, 1 << 20),
        b"\xff" * 12,
        bytes(12),
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00\x00\x00\x3c" + bytes(60),
    ],
    ids=lambda header: header[:12].hex("-", 4),
)
@pytest.mark.parametrize("ack", [0, NEED_REPLY])
def test_headers_that_are_none(lab: Lab, header: bytes, ack: int) -> None:
    with dialled(lab) as sock:
        send(sock, header[:4] + bytes([header[4] | ack]) + header[5:])
        assert not answered(sock)
        lab.wait_end("bad", "")
        assert "closed" not in lab.port("bad").last_end, "there is a reason of its own"


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 16, 40, 255, 4096, 65_536])
def test_payloads_of_every_size(lab: Lab, size: int) -> None:
    """For every request, with nothing said before. Most are wrong; it is refused or carried out."""
    with lab.undisturbed():
        for request in Request:
            with socket.socket(socket.AF_UNIX) as sock, suppress(EOFError):
                sock.settimeout(20)
                sock.connect(lab.path("bad"))
                send(sock, message(request, bytes(size)))
                sock.shutdown(socket.SHUT_WR)
                while True:
                    receive(sock)


@pytest.mark.parametrize(
    "request_",
    [r for r in Request if r.name.startswith(("SET_VRING_", "GET_VRING_"))],
    ids=lambda each: each.name,
)
@pytest.mark.parametrize("ring", [2, 3, 32, 127, 255])
def test_rings_that_do_not_exist(lab: Lab, request_: Request, ring: int) -> None:
    """Where the number is a word, also with a ring that exists in its lowest byte."""
    with lab.undisturbed(), lab.front("bad") as front:
        queue = Pair(front).rx
        with_fd = request_ in (Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR)
        if request_ == Request.SET_VRING_ADDR:
            payload = vring_addr(ring << 8, 0, 0, 0)
        else:
            payload = u64(ring) if with_fd else vring_state(ring << 8, 1)
        front.send(request_, payload, [queue.err] if with_fd else [])
        front.expect_end()
        lab.wait_end("bad", request_.name)


@pytest.mark.parametrize("features", [1 << 63, 1 << 5, Feature.VERSION_1 | 1 << 17, (1 << 64) - 1])
def test_features_that_were_not_offered(lab: Lab, features: int) -> None:
    with lab.undisturbed(), lab.front("bad") as front:
        front.send(Request.SET_FEATURES, u64(features))
        front.expect_end()
        lab.wait_end("bad", "not offered")


@pytest.mark.parametrize("protocol", [1 << 63, 1 << 7, Protocol.INBAND_NOTIFICATIONS, (1 << 64) - 1])
def test_protocol_features_that_were_not_offered(lab: Lab, protocol: int) -> None:
    with lab.undisturbed(), lab.front("bad") as front:
        front.send(Request.SET_PROTOCOL_FEATURES, u64(protocol))
        front.expect_end()
        lab.wait_end("bad", "not offered")


@pytest.mark.parametrize("cut", [1, 4, 11, 12, 13, 19])
@pytest.mark.parametrize("fds", [0, 1, 253])
def test_half_messages(lab: Lab, cut: int, fds: int) -> None:
    """Nobody waits for the rest; with the connection its descriptors go."""
    with dialled(lab) as sock, open(os.devnull) as null:  # noqa: PTH123
        send(sock, message(Request.SET_FEATURES, u64(1))[:cut], [null.fileno()] * fds)
        lab.wait_for(lambda: lab.port("bad").session is not None, "it is connected")
        sock.close()
        lab.wait_end("bad", "in the middle of")


def test_bytes_one_by_one(lab: Lab) -> None:
    with dialled(lab) as sock:
        for _ in range(20):
            for byte in GREETING:
                sock.send(bytes([byte]))
            assert receive(sock).request == Request.GET_FEATURES


def test_many_at_once(lab: Lab) -> None:
    with dialled(lab) as sock:
        send(sock, GREETING * 500)
        for _ in range(500):
            assert receive(sock).request == Request.GET_FEATURES


def send_until_full(sock: socket.socket) -> int:
    """Requests until no more go in; bytes sent."""
    sock.setblocking(False)
    sent = 0
    try:
        while True:
            sent += sock.send(GREETING)
    except BlockingIOError:
        return sent


def test_answers_that_nobody_reads(lab: Lab) -> None:
    """The peer is asked no more until it reads; x and y do not notice."""
    with dialled(lab) as sock:
        sent = send_until_full(sock)
        lab.wait_for(lambda: lab.port("bad").session is not None, "it is connected")
        sock.settimeout(20)
        for _ in range(sent // len(GREETING)):
            assert receive(sock).request == Request.GET_FEATURES
        assert answered(sock)


def test_nobody_reads_and_leaves(lab: Lab) -> None:
    with dialled(lab) as sock:
        send_until_full(sock)


def test_come_and_gone(lab: Lab) -> None:
    with lab.undisturbed():
        for turn in range(50):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(20)
                sock.connect(lab.path("bad"))
                if turn % 2:
                    with suppress(EOFError):  # the one before may not have been noticed to be gone
                        send(sock, GREETING)


def test_one_at_a_time(lab: Lab) -> None:
    with dialled(lab) as sock:
        assert answered(sock)
        with socket.socket(socket.AF_UNIX) as second:
            second.settimeout(20)
            second.connect(lab.path("bad"))
            assert second.recv(1) == b""
        assert answered(sock)


@pytest.mark.parametrize("seed", range(20))
def test_nonsense(lab: Lab, seed: int) -> None:
    """Requests with random payloads in random order, some with descriptors, as long as the port listens."""
    chance = random.Random(seed)
    with lab.undisturbed(), lab.front("bad") as front:
        pair = Pair(front)
        pair.start()
        mine = [queue.kick for queue in front.queues] + [front.memory.regions[0].fd]
        try:
            for _ in range(200):
                request = chance.choice(list(Request))
                words = [
                    chance.choice((0, 1, 2, 256, chance.getrandbits(64))) for _ in range(chance.randrange(6))
                ]
                payload = b"".join(u64(word & (1 << 64) - 1) for word in words)
                fds = chance.sample(mine, chance.randrange(len(mine) + 1))
                flags = VERSION | chance.choice((0, NEED_REPLY))
                send(front.sock, message(request, payload, flags=flags), fds)
        except EOFError:
            pass
        front.sock.shutdown(socket.SHUT_WR)
        front.expect_end()
