"""Datagram ports: Unix, UDP and multicast; strangers are not heard."""

import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.accounting import assert_accounts
from tests.support.frames import BROADCAST, frame, mac
from tests.support.qemu_peers import FakeDgramPeer, eventually
from vbackend.backend import Backend
from vbackend.dataplane import SessionEnded
from vbackend.errors import ConfigError
from vbackend.ports.channel import Channel
from vbackend.ports.parse import parse_port
from vbackend.ports.spec import DgramUdpSpec, PortOptions, TcpAddress
from vbackend.snapshot import PortSnapshot

GUEST, PYTHON = mac(1), mac(2)
HELLO, ANSWER = frame(BROADCAST, GUEST, b"hello"), frame(GUEST, PYTHON, b"answer")


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with Backend(name="test") as found:
        yield found


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def first(backend: Backend) -> PortSnapshot:
    return backend.snapshot().ports[0]


async def both_ways(channel: Channel, peer: FakeDgramPeer) -> None:
    await peer.send(HELLO)
    assert await channel.recv() == HELLO
    assert await channel.send(ANSWER)
    assert await peer.recv() == ANSWER


async def test_unix(backend: Backend, tmp_path: Path) -> None:
    ours, theirs, stranger = (str(tmp_path / name) for name in ("ours", "theirs", "stranger"))
    await backend.start([parse_port(f"dgram:unix:{ours}:{theirs}")])
    with await backend.open_channel("python") as channel:
        with FakeDgramPeer.bind(theirs, ours) as peer:
            await both_ways(channel, peer)
            with FakeDgramPeer.bind(stranger, ours) as other:
                await other.send(frame(BROADCAST, mac(9), b"forged"))
            await eventually(lambda: first(backend).rx.drops == {"sender": 1}, "the stranger is counted")
            await peer.send(b"")
            await peer.send(b"short")
            await eventually(lambda: first(backend).rx.drops.get("runt") == 2, "runts are counted")
            await both_ways(channel, peer)
        assert channel.recv_ready() == []
        assert_accounts(backend.snapshot())
    assert (tmp_path / "ours").is_socket()
    await backend.stop()
    assert not (tmp_path / "ours").exists()


async def test_a_guest_that_is_away_comes_back(backend: Backend, tmp_path: Path) -> None:
    ours, theirs = str(tmp_path / "ours"), str(tmp_path / "theirs")
    await backend.start([parse_port(f"dgram:unix:{ours}:{theirs}")])
    with await backend.open_channel("python") as channel:
        assert await channel.send(frame(BROADCAST, PYTHON))
        await eventually(lambda: first(backend).tx.frames_in == 1, "the frame")
        await eventually(lambda: first(backend).tx.dropped == 1, "nobody took it")
        for _ in range(2):
            with FakeDgramPeer.bind(theirs, ours) as peer:
                await both_ways(channel, peer)
            (tmp_path / "theirs").unlink()
        assert_accounts(backend.snapshot())
    assert first(backend).sessions == 1


async def test_udp(backend: Backend) -> None:
    ours, theirs = ("127.0.0.1", free_port()), ("127.0.0.1", free_port())
    await backend.start([parse_port(f"dgram:udp:127.0.0.1:{ours[1]}:localhost:{theirs[1]}")])
    with await backend.open_channel("python") as channel, FakeDgramPeer.bind(theirs, ours) as peer:
        await both_ways(channel, peer)
        with FakeDgramPeer.bind(("127.0.0.1", 0), ours) as other:
            await other.send(HELLO)
        await eventually(lambda: first(backend).rx.drops == {"sender": 1}, "the stranger is counted")
    assert_accounts(backend.snapshot())


async def test_multicast(backend: Backend) -> None:
    place, port = "230.11.12.13", free_port()
    await backend.start([parse_port(f"dgram:mcast:{place}:{port},local=127.0.0.1")])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:  # as QEMU: one socket for both directions
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((place, port))
        member = socket.inet_aton(place) + socket.inet_aton("127.0.0.1")
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        peer = FakeDgramPeer(sock, (place, port))
        with await backend.open_channel("python") as channel:
            await peer.send(HELLO)
            assert await peer.recv() == HELLO  # its own, looped
            assert await channel.recv() == HELLO
            assert await channel.send(ANSWER)
            assert await peer.recv() == ANSWER
            await eventually(lambda: first(backend).tx.frames_out == 1, "sent")
            await peer.send(HELLO)
            assert await channel.recv() == HELLO
            assert channel.recv_ready() == []  # nothing of our own came back
            await eventually(lambda: first(backend).rx.frames_out == 2, "both counted")
    assert_accounts(backend.snapshot())


async def test_a_session_that_breaks_is_opened_again(backend: Backend, tmp_path: Path) -> None:
    ours, theirs = str(tmp_path / "ours"), str(tmp_path / "theirs")
    await backend.start([parse_port(f"dgram:unix:{ours}:{theirs},name=d")])
    port = backend._ports["d"]
    assert port.engine_port is not None
    port.context.dataplane.detach(port.engine_port)
    port.ended(SessionEnded(port.engine_port, port._engine_session, "error", 100))
    assert first(backend).state == "failed"
    await eventually(lambda: first(backend).state == "connected", "open again")
    assert (first(backend).sessions, first(backend).last_end) == (2, os.strerror(100))
    with await backend.open_channel("python") as channel, FakeDgramPeer.bind(theirs, ours) as peer:
        await both_ways(channel, peer)


async def test_versions_must_match(backend: Backend) -> None:
    with pytest.raises(ConfigError, match="different IP versions"):
        await backend.start(
            [DgramUdpSpec("d", PortOptions(), TcpAddress("::1", 1), TcpAddress("127.0.0.1", 2))]
        )
