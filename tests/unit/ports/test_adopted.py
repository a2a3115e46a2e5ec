"""Ports on sockets that were connected before."""

import socket
from collections.abc import AsyncIterator

import pytest

from tests.support.accounting import assert_accounts
from tests.support.frames import BROADCAST, frame, mac
from tests.support.qemu_peers import FakeDgramPeer, FakeStreamPeer, eventually
from vbackend.backend import Backend
from vbackend.errors import ConfigError
from vbackend.ports.spec import PortOptions

HELLO = frame(BROADCAST, mac(1), b"hello")


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with Backend(name="test") as found:
        await found.start([])
        yield found


async def test_a_stream_pair_and_its_end(backend: Backend) -> None:
    ours, theirs = socket.socketpair()
    port = await backend.adopt("stream", ours, PortOptions(), "stream:fd")
    assert (port.name, port.kind, port.where, port.state) == ("stream", "stream", "stream:fd", "connected")
    assert port.session is not None
    assert port.session.peer == "a passed socket"
    with await backend.open_channel("python") as channel, FakeStreamPeer(theirs) as peer:
        await peer.send_frames(HELLO)
        assert await channel.recv() == HELLO
    await eventually(lambda: backend.snapshot().ports[0].state == "down", "its peer left")
    assert "for good" in backend.snapshot().ports[0].detail
    assert_accounts(backend.snapshot())
    await backend.remove_port("stream")


async def test_a_datagram_pair(backend: Backend) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    port = await backend.adopt("dgram", ours, PortOptions(name="vm", queue=9), "dgram:fd")
    assert (port.name, port.kind, port.queue_frames) == ("vm", "dgram", 9)
    with await backend.open_channel("python") as channel, FakeDgramPeer(theirs, None) as peer:
        await peer.send(HELLO)
        assert await channel.recv() == HELLO


async def test_names_are_made_unique_or_refused(backend: Backend) -> None:
    pairs = [socket.socketpair() for _ in range(3)]
    first = await backend.adopt("stream", pairs[0][0], PortOptions(), "stream:fd")
    second = await backend.adopt("stream", pairs[1][0], PortOptions(), "stream:fd")
    assert (first.name, second.name) == ("stream", "stream-2")
    with pytest.raises(ConfigError, match="the name 'stream' is taken"):
        await backend.adopt("stream", pairs[2][0], PortOptions(name="stream"), "stream:fd")
    assert pairs[2][0].fileno() == -1
    for _, theirs in pairs:
        theirs.close()


async def test_a_socket_that_is_not_connected_is_refused_and_closed(backend: Backend) -> None:
    sock = socket.socket()
    with pytest.raises(ConfigError, match="not connected"):
        await backend.adopt("stream", sock, PortOptions(), "stream:fd")
    assert sock.fileno() == -1
    assert backend.snapshot().ports == ()
