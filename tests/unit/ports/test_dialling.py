"""Dialling ports: retries, what they report meanwhile, and coming back. (Listening: tests/conformance.)"""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.accounting import assert_accounts
from tests.support.frames import BROADCAST, frame, mac
from tests.support.qemu_peers import FakeStreamPeer, eventually
from vbackend.backend import Backend
from vbackend.ports.dialling import _refuse_myself
from vbackend.ports.parse import parse_port
from vbackend.snapshot import PortSnapshot

HELLO = frame(BROADCAST, mac(1), b"hello")


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with Backend(name="test") as found:
        yield found


def only(backend: Backend) -> PortSnapshot:
    (port,) = backend.snapshot().ports
    return port


async def test_it_dials_until_somebody_listens_and_again_after_each_end(
    backend: Backend, tmp_path: Path
) -> None:
    path = str(tmp_path / "a.sock")
    await backend.start([parse_port(f"stream:unix:{path},dial")])
    await eventually(lambda: "no such file or directory, again in" in only(backend).detail, "it says why")
    assert only(backend).state == "dialling"
    with FakeStreamPeer.listen(path) as listener:
        for number in (1, 2, 3):
            with await FakeStreamPeer.accept(listener) as peer:
                await peer.send_frames(HELLO)
                await eventually(lambda: only(backend).session, "connected")
                session = only(backend).session
                assert session is not None
                assert session.number == number
                assert session.peer.startswith("unix pid ")
            await eventually(lambda: only(backend).state == "dialling", "dialling again")
            assert only(backend).last_end == "the peer closed the connection"
    port = only(backend)
    assert (port.sessions, port.rx.frames_in) == (3, 3)
    assert_accounts(backend.snapshot())


async def test_a_full_backlog_is_not_taken_for_a_connection(backend: Backend, tmp_path: Path) -> None:
    path = str(tmp_path / "a.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        with await FakeStreamPeer.connect(path):  # QEMU's listener is as short: the queue is full now
            await backend.start([parse_port(f"stream:unix:{path},dial")])
            await eventually(lambda: "queue of connections is full" in only(backend).detail, "it says why")
            assert only(backend).sessions == 0
        listener.close()


async def test_tcp(backend: Backend) -> None:
    with FakeStreamPeer.listen(("127.0.0.1", 0)) as listener:
        place = "{}:{}".format(*listener.getsockname())
        await backend.start([parse_port(f"stream:tcp:{place},dial")])
        with await FakeStreamPeer.accept(listener) as peer:
            await eventually(lambda: only(backend).session, "connected")
            session = only(backend).session
            assert session is not None
            assert session.peer == place
            await peer.send_frames(HELLO)
            await eventually(lambda: only(backend).rx.frames_in == 1, "the frame")
    await eventually(lambda: "connection refused" in only(backend).detail, "nobody listens now")


async def test_an_unknown_host_is_tried_again(backend: Backend) -> None:
    await backend.start([parse_port("stream:tcp:no-such-host.invalid:1,dial")])
    await eventually(lambda: "does not resolve" in only(backend).detail, "it says why")
    assert only(backend).state == "dialling"


def test_tcp_does_not_meet_itself() -> None:
    """A port in the kernel's own range, dialled often enough, would connect to itself."""
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        place = chosen.getsockname()
    with socket.socket() as both:
        both.bind(place)
        both.connect(place)
        assert both.getsockname() == both.getpeername()
        with pytest.raises(ConnectionRefusedError):
            _refuse_myself(both, place)


async def test_stopping_while_it_dials(backend: Backend, tmp_path: Path) -> None:
    await backend.start([parse_port(f"stream:unix:{tmp_path}/a.sock,dial")])
    await asyncio.wait_for(backend.stop(), 2)
    assert len(asyncio.all_tasks()) == 1


async def test_it_dials_at_once_when_told(backend: Backend, tmp_path: Path) -> None:
    path = str(tmp_path / "a.sock")
    await backend.start([parse_port(f"stream:unix:{path},dial,name=a")])
    await eventually(
        lambda: "again in 2" in only(backend).detail or "again in 1" in only(backend).detail, "slow"
    )
    with FakeStreamPeer.listen(path) as listener:
        backend.dial_now("a")
        with await FakeStreamPeer.accept(listener):
            await eventually(lambda: only(backend).session, "connected")
            backend.dial_now("a")
            await backend.remove_port("a")  # a hurry that was in vain does not keep it
