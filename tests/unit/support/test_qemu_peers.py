"""The fake guests, against each other."""

import asyncio
import socket
from pathlib import Path

import pytest

from tests.support import qemu_peers
from tests.support.frames import stream
from tests.support.qemu_peers import FakeDgramPeer, FakeStreamPeer, eventually


@pytest.fixture
def short_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu_peers, "DEADLINE_S", 0.05)


def pair() -> tuple[FakeStreamPeer, FakeStreamPeer]:
    one, two = socket.socketpair()
    return FakeStreamPeer(one), FakeStreamPeer(two)


async def test_frames_arrive_however_they_are_cut() -> None:
    one, two = pair()
    with one, two:
        await one.send_frames(b"first", b"")
        await one.send_split([b"second", b"third"], [1, 4, 11])
        assert await two.recv_frames(4) == [b"first", b"", b"second", b"third"]


async def test_half_a_frame_is_the_end() -> None:
    one, two = pair()
    with two:
        await one.send_half_and_die(b"12345678")
        with pytest.raises(EOFError):
            await two.recv_frame()


async def test_expect_eof_forgets_frames() -> None:
    one, two = pair()
    with two:
        await one.send_frames(b"x")
        one.close()
        await two.expect_eof()


@pytest.mark.usefixtures("short_deadline")
async def test_waiting_has_a_deadline() -> None:
    one, two = pair()
    with one, two:
        with pytest.raises(AssertionError, match="receive: nothing within"):
            await two.recv_frame()
        with pytest.raises(AssertionError, match=r"not within .*: the moon"):
            await eventually(lambda: False, "the moon")
        assert 0 < one.fill(bytes(1 << 24)) < 1 << 24


async def test_listening_and_connecting(tmp_path: Path) -> None:
    for address in (str(tmp_path / "a"), "@vbackend-test-peers", ("127.0.0.1", 0)):
        with FakeStreamPeer.listen(address) as listener:
            place = listener.getsockname() if isinstance(address, tuple) else address
            one, two = await asyncio.gather(FakeStreamPeer.connect(place), FakeStreamPeer.accept(listener))
            with one, two:
                await one.send_raw(stream(b"x"))
                assert await two.recv_frame() == b"x"


async def test_datagrams(tmp_path: Path) -> None:
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    with FakeDgramPeer.bind(a, b) as one, FakeDgramPeer.bind(b, a) as two:
        await one.send(b"x")
        await one.send(b"")
        assert [await two.recv(), await two.recv()] == [b"x", b""]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with FakeDgramPeer(ours, None) as one, FakeDgramPeer(theirs, None) as two:
        await one.send(b"y")
        assert await two.recv() == b"y"
