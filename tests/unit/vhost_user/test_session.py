"""The shell on the event loop: order of commands and answers, ends, peers that do not read, nothing left open."""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.fds import open_fds
from tests.support.qemu_peers import eventually
from tests.support.vhost_user import (
    NEED_REPLY,
    FakeRings,
    addresses,
    log,
    raw,
    region,
    send,
    state,
    table,
    u64,
)
from vbackend.vhost_user.announce import announcement
from vbackend.vhost_user.events import Region, Request
from vbackend.vhost_user.features import PROTOCOL_FEATURES, Feature, Offer
from vbackend.vhost_user.protocol import FrontEnd
from vbackend.vhost_user.session import Session

pytestmark = pytest.mark.usefixtures("no_garbage")

R = Request
ONE = Region(0, 1 << 28, 0x7F0000000000, 0)
TWO = Region(1 << 32, 1 << 20, 0x7F8000000000, 0)
AT = ONE.user_address
PORT = 5


class Desk:
    """A session on a socket pair, its recording engine, and the front-end's end of the pair."""

    def __init__(self, *, moves: int = 0) -> None:
        self.peer, ours = socket.socketpair()
        self.peer.setblocking(False)
        self.rings = FakeRings(moves=moves)
        self.ends: list[tuple[str, bool]] = []
        self.asked = 0
        self.session = Session(
            ours,
            FrontEnd(Offer(queues=2)),
            self.rings,
            PORT,
            before=self._before,
            on_end=lambda reason, orderly: self.ends.append((reason, orderly)),
        )

    def _before(self) -> None:
        self.asked += 1

    def say(self, request: int, payload: bytes = b"", *, fds: int = 0, flags: int = 0) -> None:
        """Send a request with `fds` descriptors."""
        with Path(os.devnull).open() as file:
            send(self.peer, raw(request, payload, flags=flags), [file.fileno()] * fds)

    async def hear(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            async with asyncio.timeout(10):
                data += await asyncio.get_running_loop().sock_recv(self.peer, size - len(data))
        return data

    async def settled(self) -> None:
        """Wait for an answer to a question put behind everything else."""
        self.say(R.GET_FEATURES)
        await self.hear(20)

    def negotiate(self) -> None:
        self.say(R.SET_PROTOCOL_FEATURES, u64(int(PROTOCOL_FEATURES)))
        self.say(R.SET_FEATURES, u64(int(Feature.VERSION_1 | Feature.PROTOCOL_FEATURES)))

    def run(self, ring: int) -> None:
        self.say(R.SET_VRING_NUM, state(ring, 256))
        self.say(R.SET_VRING_BASE, state(ring, 5))
        self.say(R.SET_VRING_ADDR, addresses(ring, AT, AT + 0x2000, AT + 0x1000))
        self.say(R.SET_VRING_KICK, u64(ring), fds=1)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    before = open_fds()
    desk = Desk(moves=4)
    yield desk
    desk.session.close()
    desk.peer.close()
    assert open_fds() <= before, "descriptors are left open"


async def test_a_whole_life(desk: Desk) -> None:
    desk.negotiate()
    desk.say(R.SET_BACKEND_REQ_FD, fds=1)
    desk.say(R.SET_BACKEND_REQ_FD, fds=1)
    desk.say(R.SET_MEM_TABLE, table(ONE), fds=1)
    desk.say(R.ADD_MEM_REG, region(TWO), fds=1)
    desk.say(R.SET_VRING_CALL, u64(0), fds=1)
    desk.say(R.SET_VRING_ERR, u64(0x100))
    desk.run(0)
    desk.say(R.SET_VRING_ENABLE, state(0, 1))
    desk.say(R.SET_LOG_BASE, log(4096, 64), fds=1)
    assert await desk.hear(20) == struct.pack("=IIIQ", R.SET_LOG_BASE, 5, 8, 0)
    desk.say(R.SET_LOG_FD, fds=1)
    desk.say(R.GET_VRING_BASE, state(0, 0))
    assert await desk.hear(20) == struct.pack("=IIIII", R.GET_VRING_BASE, 5, 8, 0, 9)
    desk.say(R.REM_MEM_REG, region(TWO), fds=1)
    desk.say(R.SEND_RARP, b"\x52\x54\x00\x12\x34\x56\x00\x00")
    await desk.settled()
    features = int(Feature.VERSION_1 | Feature.PROTOCOL_FEATURES)
    assert desk.rings.calls == [
        ("features", features),
        ("set_memory", (ONE,), "fd"),
        ("add_memory", TWO, "fd"),
        ("set_call", 0, "fd"),
        ("set_err", 0, None),
        ("set_kick", 0, "fd"),
        ("start_ring", 0, 256, 5, AT, AT + 0x1000, AT + 0x2000),
        ("enable_ring", 0, True),
        ("set_log", 4096, 64, "fd"),
        ("set_log_call", "fd"),
        ("stop_ring", 0),
        ("remove_memory", TWO.guest_address, TWO.size, TWO.user_address),
        ("inject", announcement(b"\x52\x54\x00\x12\x34\x56")),
    ]
    assert desk.rings.ports == {PORT}
    assert desk.asked > 14, "what the engine reported is heard before each request"
    desk.peer.close()
    await eventually(lambda: desk.ends, "the end")
    assert desk.ends == [("the peer closed the connection", True)]


async def test_refused_with_the_protocol_s_error_then_over(desk: Desk) -> None:
    desk.negotiate()
    desk.say(R.SET_VRING_NUM, state(9, 256), fds=0, flags=NEED_REPLY)
    desk.say(R.SET_OWNER)
    assert await desk.hear(20) == struct.pack("=IIIQ", R.SET_VRING_NUM, 5, 8, 1)
    await eventually(lambda: desk.ends, "the end")
    assert desk.ends == [("SET_VRING_NUM: ring 9 of 4; this port has queues=2", False)]
    with pytest.raises(BrokenPipeError):
        desk.peer.send(b"x")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (raw(99, flags=NEED_REPLY), "request 99: no such request"),
        (raw(R.SET_FEATURES, b"12345678" * 9, flags=NEED_REPLY), "SET_FEATURES: has 72 bytes"),
    ],
)
async def test_headers_that_are_refused_are_answered_too(desk: Desk, data: bytes, words: str) -> None:
    desk.negotiate()
    send(desk.peer, data)
    assert (await desk.hear(20))[4:] == struct.pack("=IIQ", 5, 8, 1)
    await eventually(lambda: desk.ends, "the end")
    assert desk.ends[0][0].startswith(words)


async def test_silent_about_it_when_nobody_asked(desk: Desk) -> None:
    desk.negotiate()
    desk.say(R.SET_VRING_NUM, state(9, 256))
    assert await asyncio.get_running_loop().sock_recv(desk.peer, 1) == b""


@pytest.mark.parametrize("error", [ValueError("ring 0: misaligned"), OSError(12, "cannot map it")])
@pytest.mark.parametrize(
    ("call", "request_"),
    [("set_memory", R.SET_MEM_TABLE), ("set_kick", R.SET_VRING_KICK), ("start_ring", R.SET_VRING_KICK)],
)
async def test_what_the_engine_refuses(
    desk: Desk, call: str, request_: Request, error: ValueError | OSError
) -> None:
    desk.rings.fail[call] = error
    desk.negotiate()
    desk.say(R.SET_MEM_TABLE, table(ONE), fds=1, flags=NEED_REPLY)
    if request_ is R.SET_VRING_KICK:
        assert (await desk.hear(20))[12:] == u64(0)
        desk.say(R.SET_VRING_NUM, state(0, 256))
        desk.say(R.SET_VRING_ADDR, addresses(0, AT, AT, AT))
        desk.say(R.SET_VRING_KICK, u64(0), fds=1, flags=NEED_REPLY)
    assert await desk.hear(20) == struct.pack("=IIIQ", request_, 5, 8, 1)
    await eventually(lambda: desk.ends, "the end")
    ((reason, orderly),) = desk.ends
    assert reason == f"{request_.name}: {error}"
    assert not orderly


async def test_half_a_message_keeps_nobody_waiting(desk: Desk) -> None:
    desk.negotiate()
    desk.peer.send(raw(R.GET_FEATURES)[:7])
    other = Desk()
    await other.settled()
    other.session.close()
    other.peer.close()
    desk.peer.send(raw(R.GET_FEATURES)[7:])
    await desk.hear(20)


async def test_a_peer_that_does_not_read_its_answers_is_not_read_either(desk: Desk) -> None:
    question = raw(R.GET_FEATURES)
    sent = 0
    blocked = 0
    while blocked < 50:
        try:
            sent += desk.peer.send(question)
            blocked = 0
        except BlockingIOError:
            blocked += 1
        await asyncio.sleep(0)
    assert sent % len(question) == 0
    answers = await desk.hear(sent // len(question) * 20)
    assert answers == answers[:20] * (sent // len(question))
    assert desk.ends == []


async def test_one_of_many_requests_does_not_keep_the_loop(desk: Desk) -> None:
    for _ in range(200):
        desk.say(R.SET_OWNER)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert 0 < desk.asked <= 130
    await desk.settled()


async def test_paused(desk: Desk) -> None:
    desk.session.pause()
    desk.negotiate()
    for _ in range(5):
        await asyncio.sleep(0)
    assert desk.rings.calls == []
    assert desk.ends == []


async def test_closed_by_what_the_engine_reports(desk: Desk) -> None:
    desk.session._before = desk.session.close
    desk.say(R.SET_OWNER)
    await eventually(lambda: desk.session._closed, "closed")
    assert desk.ends == [], "who closes it knows"


async def test_a_ring_that_the_engine_stopped_goes_on_where_it_stood(desk: Desk) -> None:
    desk.negotiate()
    desk.say(R.SET_MEM_TABLE, table(ONE), fds=1)
    desk.run(1)
    await desk.settled()
    desk.session.broken(1, "a lie")
    desk.say(R.SET_VRING_KICK, u64(1), fds=1)
    await desk.settled()
    assert [call[2] for call in desk.rings.of("start_ring")] == [5, 9]
    desk.session.broken(1, "a lie")
    desk.say(R.GET_VRING_BASE, state(1, 0))
    assert (await desk.hear(20))[12:] == state(1, 13)


async def test_a_ring_and_its_session_that_the_engine_ended(desk: Desk) -> None:
    desk.negotiate()
    desk.say(R.SET_MEM_TABLE, table(ONE), fds=1)
    desk.run(1)
    await desk.settled()
    desk.rings.fail["stop_ring"] = ValueError("the port has no vhost-user session")
    desk.session.broken(1, "a lie")
    desk.say(R.GET_VRING_BASE, state(1, 0))
    assert (await desk.hear(20))[12:] == state(1, 5)


async def test_closing_keeps_no_descriptors_of_half_a_message(desk: Desk) -> None:
    send(desk.peer, raw(R.SET_VRING_KICK, u64(0))[:14], [desk.peer.fileno()])
    await eventually(lambda: desk.session._reader._fds, "it came")
    desk.session.close()
    desk.session.close()


async def test_a_broken_connection(desk: Desk) -> None:
    ours = desk.session._sock
    ours.shutdown(socket.SHUT_WR)
    desk.say(R.GET_FEATURES)
    desk.peer.close()
    await eventually(lambda: desk.ends, "the end")
    assert desk.ends == [("the peer closed the connection", True)]


async def test_a_peer_that_leaves_without_reading_its_answer(desk: Desk) -> None:
    desk.say(R.GET_FEATURES)
    await eventually(lambda: desk.asked > 1, "answered")
    desk.peer.close()
    await eventually(lambda: desk.ends, "the end")
    assert desk.ends == [("Connection reset by peer", False)]


async def test_the_engine_s_own_reason_comes_first(desk: Desk) -> None:
    """Guest memory went away while a request was on its way: there is no session to carry it out on."""

    def before() -> None:
        if desk.rings.calls:
            desk.session.close()

    desk.session._before = before
    desk.rings.fail["features"] = ValueError("the port has no session")
    desk.negotiate()
    await eventually(lambda: desk.session._closed, "closed")
    assert desk.ends == []
