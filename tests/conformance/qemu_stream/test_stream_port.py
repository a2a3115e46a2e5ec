"""QEMU's stream format: what a peer must not do, and what must happen when it does.

Every case runs on a switch of three ports: `bad` and two bystanders, x and y. Whatever `bad` does, afterwards
x and y have lost nothing, `bad` takes the next peer, and every port's accounts add up.
"""

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.support.accounting import assert_accounts
from tests.support.frames import BROADCAST, MAX_FRAME, MIN_FRAME, frame, mac, numbered, stream
from tests.support.qemu_peers import FakeStreamPeer, eventually
from vbackend.backend import Backend
from vbackend.ports.parse import parse_port
from vbackend.snapshot import PortSnapshot

BAD, X, Y = mac(0xBAD), mac(1), mac(2)


class Lab:
    """The three ports and their peers."""

    def __init__(self, backend: Backend, folder: Path) -> None:
        self.backend = backend
        self.folder = folder
        self.peers: list[FakeStreamPeer] = []

    def path(self, name: str) -> str:
        return str(self.folder / f"{name}.sock")

    async def connect(self, name: str) -> FakeStreamPeer:
        before = self.port(name).sessions
        peer = await FakeStreamPeer.connect(self.path(name))
        self.peers.append(peer)
        await eventually(lambda: self.port(name).sessions > before, f"{name} takes the peer")
        return peer

    def port(self, name: str = "bad") -> PortSnapshot:
        return next(port for port in self.backend.snapshot().ports if port.name == name)

    async def bystanders_lose_nothing(self, x: FakeStreamPeer, y: FakeStreamPeer) -> None:
        there, back = numbered(Y, X, 64), numbered(X, Y, 64)
        await x.send_frames(*there)
        await y.send_frames(*back)
        assert await receive_from(y, X, len(there)) == there
        assert await receive_from(x, Y, len(back)) == back

    async def next_peer_works(self, x: FakeStreamPeer) -> None:
        await eventually(lambda: self.port().state == "listening", "bad listens again")
        peer = await self.connect("bad")
        hello = frame(X, BAD, b"next peer")
        await peer.send_frames(hello)
        assert await receive_from(x, BAD, 1) == [hello]
        await x.send_frames(frame(BAD, X, b"welcome"))
        assert await receive_from(peer, X, 1) == [frame(BAD, X, b"welcome")]


async def receive_from(peer: FakeStreamPeer, source: bytes, count: int) -> list[bytes]:
    """The next `count` frames of one station; others' (flooded ones) are skipped."""
    found: list[bytes] = []
    while len(found) < count:
        got = await peer.recv_frame()
        if got[6:12] == source:
            found.append(got)
    return found


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with Backend(name="test") as backend:
        found = Lab(backend, tmp_path)
        await backend.start([parse_port(f"stream:unix:{found.path(name)}") for name in ("bad", "x", "y")])
        try:
            yield found
        finally:
            for peer in found.peers:
                peer.close()


# Frames that are lost while the session goes on.
LOST: list[tuple[str, list[bytes]]] = [
    ("zero-length", [b""]),
    ("many zero-length", [b""] * 100),
    ("every runt", [b"x" * size for size in range(MIN_FRAME)]),
]


@pytest.mark.parametrize(("name", "frames"), LOST, ids=[name for name, _ in LOST])
async def test_a_frame_too_short_is_lost_and_counted(lab: Lab, name: str, frames: list[bytes]) -> None:  # noqa: ARG001
    bad, x, y = [await lab.connect(each) for each in ("bad", "x", "y")]
    after = frame(X, BAD, b"after")
    await bad.send_frames(*frames, after)
    assert await receive_from(x, BAD, 1) == [after]
    # A frame may arrive a moment before the counters of its turn are published.
    await eventually(lambda: lab.port().rx.frames_in == len(frames) + 1, "all frames counted")
    port = lab.port()
    assert port.rx.drops == {"runt": len(frames)}
    assert (port.state, port.sessions) == ("connected", 1)
    await lab.bystanders_lose_nothing(x, y)
    assert_accounts(lab.backend.snapshot())


@pytest.mark.parametrize("size", [MIN_FRAME, 42, 60, 1514, 9014, 65_550, MAX_FRAME])
async def test_frames_of_every_legal_size_pass_whole(lab: Lab, size: int) -> None:
    bad, x = [await lab.connect(each) for each in ("bad", "x")]
    sent = frame(X, BAD, random.Random(size).randbytes(size - MIN_FRAME))
    await bad.send_frames(sent)
    assert await receive_from(x, BAD, 1) == [sent]
    assert_accounts(lab.backend.snapshot())


async def _close(peer: FakeStreamPeer) -> None:
    peer.close()


async def _half(peer: FakeStreamPeer) -> None:
    await peer.send_half_and_die(frame(X, BAD, size=1000))


async def _reset(peer: FakeStreamPeer) -> None:
    """Die with unread data in the receive buffer: the backend sees ECONNRESET (Unix sockets too)."""
    await eventually(lambda: _pending(peer.sock), "something to leave unread")
    peer.close()


def _pending(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


def _raw(data: bytes) -> Callable[[FakeStreamPeer], Awaitable[None]]:
    async def send(peer: FakeStreamPeer) -> None:
        await peer.send_raw(data)

    return send


def _raw_and_close(data: bytes) -> Callable[[FakeStreamPeer], Awaitable[None]]:
    async def send(peer: FakeStreamPeer) -> None:
        await peer.send_raw(data)
        peer.close()

    return send


# (name, what the peer does, words in the reason, drops in the port's rx lane)
ENDS: list[tuple[str, Callable[[FakeStreamPeer], Awaitable[None]], tuple[str, ...], dict[str, int]]] = [
    ("length 69633", _raw(struct.pack(">I", MAX_FRAME + 1)), ("69633 is above 69632",), {"oversize": 1}),
    ("length 2**32-1", _raw(b"\xff" * 4), ("4294967295", "frame boundaries"), {"oversize": 1}),
    ("garbage", _raw(random.Random(7).randbytes(5000)), ("is above 69632",), {"oversize": 1}),
    ("http", _raw(b"GET / HTTP/1.1\r\n\r\n"), ("the peer sent 'GET '", "not QEMU's"), {"oversize": 1}),
    ("ssh", _raw(b"SSH-2.0-OpenSSH_9.2\r\n"), ("the peer sent 'SSH-'",), {"oversize": 1}),
    ("tls", _raw(b"\x16\x03\x01\x02\x00\x01"), ("TLS",), {"oversize": 1}),
    ("good frame, then garbage", _raw(stream(frame(X, BAD)) + b"\xff" * 9), ("4294967295",), {"oversize": 1}),
    ("leaves at once", _close, ("closed the connection",), {}),
    ("cut after 1 byte of the length", _raw_and_close(b"\0"), ("middle of a frame",), {}),
    ("cut after 3 bytes of the length", _raw_and_close(b"\0\0\0"), ("middle of a frame",), {}),
    ("cut after the length", _raw_and_close(b"\0\0\0\x3c"), ("middle of a frame",), {}),
    ("cut in the body", _half, ("middle of a frame",), {}),
    ("whole frame, then cut", _raw_and_close(stream(frame(X, BAD)) + b"\0\0\0\x3c."), ("middle of a",), {}),
]


@pytest.mark.parametrize(("name", "act", "words", "drops"), ENDS, ids=[case[0] for case in ENDS])
async def test_a_session_that_breaks_the_format_ends_with_a_reason(
    lab: Lab,
    name: str,  # noqa: ARG001
    act: Callable[[FakeStreamPeer], Awaitable[None]],
    words: tuple[str, ...],
    drops: dict[str, int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    bad, x, y = [await lab.connect(each) for each in ("bad", "x", "y")]
    await act(bad)
    await eventually(lambda: lab.port().session is None, "the session ends")
    port = lab.port()
    for word in words:
        assert word in port.last_end
    assert {reason: count for reason, count in port.rx.drops.items() if count} == drops
    assert any("port bad" in line and port.last_end in line for line in caplog.messages)
    await lab.bystanders_lose_nothing(x, y)
    await lab.next_peer_works(x)
    assert_accounts(lab.backend.snapshot())


async def test_the_backend_closes_a_connection_that_breaks_the_format(lab: Lab) -> None:
    bad = await lab.connect("bad")
    await bad.send_raw(b"\xff" * 100)
    await bad.expect_eof()


async def test_a_peer_that_dies_with_frames_unread(lab: Lab) -> None:
    bad, x, y = [await lab.connect(each) for each in ("bad", "x", "y")]
    await x.send_frames(*numbered(BROADCAST, X, 10))
    await receive_from(y, X, 10)
    await _reset(bad)
    await eventually(lambda: lab.port().session is None, "the session ends")
    await lab.bystanders_lose_nothing(x, y)
    await lab.next_peer_works(x)
    assert_accounts(lab.backend.snapshot())


async def test_a_second_peer_is_turned_away_and_the_first_stays(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    bad, x, y = [await lab.connect(each) for each in ("bad", "x", "y")]
    with await FakeStreamPeer.connect(lab.path("bad")) as second:
        await second.expect_eof()
    await eventually(lambda: lab.port().refused == 1, "the refusal is counted")
    assert any("port bad: refused unix pid" in line for line in caplog.messages)
    hello = frame(X, BAD, b"still here")
    await bad.send_frames(hello)
    assert await receive_from(x, BAD, 1) == [hello]
    assert lab.port().sessions == 1
    await lab.bystanders_lose_nothing(x, y)
    assert_accounts(lab.backend.snapshot())


async def test_many_peers_at_once_are_all_turned_away(lab: Lab) -> None:
    await lab.connect("bad")
    rivals = [await FakeStreamPeer.connect(lab.path("bad")) for _ in range(20)]
    for rival in rivals:
        await rival.expect_eof()
        rival.close()
    await eventually(lambda: lab.port().refused == 20, "20 refusals")
    assert lab.port().sessions == 1


async def test_a_peer_that_reconnects_at_once_is_taken(lab: Lab) -> None:
    bad = await lab.connect("bad")
    for _ in range(20):
        bad.close()
        bad = await lab.connect("bad")
    assert lab.port().refused == 0


async def test_a_silent_peer_disturbs_nobody(lab: Lab) -> None:
    _, x, y = [await lab.connect(each) for each in ("bad", "x", "y")]
    await lab.bystanders_lose_nothing(x, y)
    assert lab.port().rx.frames_in == 0
    assert lab.port().state == "connected"
    assert_accounts(lab.backend.snapshot())


async def test_a_stalled_peer_loses_only_its_own_frames(lab: Lab) -> None:
    bad, x, y = [await lab.connect(each) for each in ("bad", "x", "y")]
    sent = numbered(BROADCAST, X, 4096, size=1514)  # about 6 MB, far more than sockets and queue hold
    for start in range(0, len(sent), 32):
        burst = sent[start : start + 32]
        await x.send_frames(*burst)
        assert await receive_from(y, X, 32) == burst
        assert_accounts(lab.backend.snapshot())
    port = lab.port()
    assert port.tx.drops.keys() == {"queue-full"}
    assert 0 < port.tx.queued <= port.queue_frames
    # When it wakes up it gets whole frames, in order, and the newest are the lost ones.
    kept = await receive_from(bad, X, port.tx.frames_out + port.tx.queued)
    assert kept == sent[: len(kept)]
    hello = frame(BROADCAST, X, b"again")
    await x.send_frames(hello)
    assert await receive_from(bad, X, 1) == await receive_from(y, X, 1) == [hello]
    await lab.bystanders_lose_nothing(x, y)
    assert_accounts(lab.backend.snapshot())


async def test_a_stalled_peer_that_leaves_has_its_queue_counted(lab: Lab) -> None:
    bad, x, y = [await lab.connect(each) for each in ("bad", "x", "y")]
    for _ in range(64):
        await x.send_frames(*numbered(BROADCAST, X, 32, size=1514))
        await receive_from(y, X, 32)
    assert lab.port().tx.queued > 0
    bad.close()
    await eventually(lambda: lab.port().session is None, "the session ends")
    port = lab.port()
    assert port.tx.queued == 0
    assert port.tx.drops["peer-gone"] > 0
    await lab.bystanders_lose_nothing(x, y)
    assert_accounts(lab.backend.snapshot())


async def test_frames_may_be_cut_at_every_byte(lab: Lab) -> None:
    bad, x = [await lab.connect(each) for each in ("bad", "x")]
    frames = [frame(X, BAD, b"first"), frame(X, BAD, b""), frame(X, BAD, b"third", size=60)]
    for cut in range(1, len(stream(*frames))):
        await bad.send_split(frames, [cut])
        assert await receive_from(x, BAD, len(frames)) == frames
    await bad.send_split(frames, range(1, len(stream(*frames))))
    assert await receive_from(x, BAD, len(frames)) == frames
    assert_accounts(lab.backend.snapshot())


async def test_stopping_drains_what_the_peers_sent(lab: Lab) -> None:
    bad, x = [await lab.connect(each) for each in ("bad", "x")]
    sent = numbered(X, BAD, 100)
    await bad.send_frames(*sent)
    stopping = asyncio.create_task(lab.backend.stop())
    assert await receive_from(x, BAD, 100) == sent
    await x.expect_eof()
    await bad.expect_eof()
    await stopping
    assert not Path(lab.path("bad")).exists()
