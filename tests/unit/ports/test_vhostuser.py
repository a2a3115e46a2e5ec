"""vhost-user ports: front-ends come, break the rules, leave, and come back. The engine's rings are a recorder's."""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.qemu_peers import FakeStreamPeer, eventually
from tests.support.vhost_user import NEED_REPLY, FakeDataplane, addresses, raw, send, state, table, u64
from vbackend.backend import Backend, BackendEvent
from vbackend.dataplane import Dataplane, RingStopped, SessionEnded
from vbackend.ports.spec import PortOptions, UnixAddress, VhostUserSpec
from vbackend.snapshot import PortSnapshot, RingSnapshot, VhostSnapshot
from vbackend.vhost_user.announce import announcement
from vbackend.vhost_user.events import Region, Request
from vbackend.vhost_user.features import PROTOCOL_FEATURES, Feature, names

R = Request
ONE = Region(0, 1 << 28, 0x7F0000000000, 0)
FEATURES = Feature.VERSION_1 | Feature.PROTOCOL_FEATURES | Feature.MRG_RXBUF


class Lab:
    """A backend with a recording engine."""

    def __init__(self) -> None:
        self.planes: list[FakeDataplane] = []
        self.backend = Backend(name="test", engine=self._engine)
        self.events: list[BackendEvent] = []
        self.backend.subscribe(self.events.append)

    def _engine(self, workers: int) -> Dataplane:
        self.planes.append(FakeDataplane(workers))
        return self.planes[-1]

    @property
    def plane(self) -> FakeDataplane:
        return self.planes[-1]

    @property
    def port(self) -> PortSnapshot:
        (port,) = self.backend.snapshot().ports
        return port

    def seen(self, name: str) -> list[BackendEvent]:
        return [event for event in self.events if event.name == name]


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    lab = Lab()
    async with lab.backend:
        yield lab


def spec(path: str, **keys: bool | int) -> VhostUserSpec:
    return VhostUserSpec(f"vhost-user:{path}", PortOptions(name="vm"), UnixAddress(path), **keys)  # type: ignore[arg-type]


def connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(path)
    return sock


def set_up(peer: socket.socket) -> None:
    """One ring that runs."""
    with Path(os.devnull).open() as file:
        send(peer, raw(R.SET_PROTOCOL_FEATURES, u64(int(PROTOCOL_FEATURES))))
        send(peer, raw(R.SET_FEATURES, u64(int(FEATURES))))
        send(peer, raw(R.NET_SET_MTU, u64(9000)))
        send(peer, raw(R.SET_MEM_TABLE, table(ONE)), [file.fileno()])
        send(peer, raw(R.SET_VRING_NUM, state(1, 256)))
        send(peer, raw(R.SET_VRING_ADDR, addresses(1, *[ONE.user_address] * 3)))
        send(peer, raw(R.SET_VRING_KICK, u64(1)), [file.fileno()])


async def rings_started(lab: Lab, count: int) -> None:
    await eventually(lambda: len(lab.plane.of("start_ring")) == count, f"{count} rings were started")


async def test_a_front_end_and_its_end(lab: Lab, tmp_path: Path) -> None:
    path = str(tmp_path / "v")
    await lab.backend.start([spec(path, queues=4, busy_poll=50)])
    assert (lab.port.kind, lab.port.state, lab.port.detail) == ("vhost-user", "listening", f"on {path}")
    assert lab.port.vhost is None
    for number in (1, 2):
        with connect(path) as peer:
            set_up(peer)
            await rings_started(lab, number)
            port = lab.port
            assert port.session is not None
            assert (port.state, port.session.number) == ("connected", number)
            assert port.vhost == VhostSnapshot(
                features=names(FEATURES),
                protocol_features=names(PROTOCOL_FEATURES),
                rings=(
                    RingSnapshot(index=1, size=256, running=True, enabled=False, kicks=3, calls=2, frames=1),
                ),
                mtu=9000,
                memory=ONE.size,
            )
        await eventually(lambda: lab.port.state == "listening", "its end")
        assert lab.port.last_end == "the peer closed the connection"
        assert lab.port.vhost is None
        assert len(lab.plane.of("detach")) == number
    assert lab.plane.of("attach") == [(50,)] * 2
    assert len(lab.seen("PORT_CONNECTED")) == len(lab.seen("PORT_DISCONNECTED")) == 2


async def test_what_is_offered_is_what_the_port_was_given(lab: Lab, tmp_path: Path) -> None:
    path = str(tmp_path / "v")
    await lab.backend.start([spec(path, packed=False, offloads=False, mtu=1500)])
    with connect(path) as peer:
        send(peer, raw(R.GET_FEATURES))
        reply = await asyncio.to_thread(peer.recv, 99)
    features = Feature(int.from_bytes(reply[12:], "little"))
    assert Feature.MTU in features
    assert not features & (Feature.RING_PACKED | Feature.CSUM | Feature.MQ)


async def test_an_illegal_request_ends_the_session_and_not_the_port(
    lab: Lab, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(tmp_path / "v")
    await lab.backend.start([spec(path)])
    with connect(path) as peer:
        send(peer, raw(R.SET_VRING_NUM, state(2, 256)))
        assert await asyncio.to_thread(peer.recv, 1) == b""
    why = "SET_VRING_NUM: ring 2 of 2; this port has queues=1"
    assert lab.port.last_end == why
    (event,) = lab.seen("PORT_DISCONNECTED")
    assert event.data["reason"] == why
    assert any(why in record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    with connect(path) as peer:
        send(peer, raw(R.GET_QUEUE_NUM))
        await eventually(lambda: "GET_QUEUE_NUM: the protocol feature MQ" in lab.port.last_end, "the next")
    assert lab.port.sessions == 2


async def test_a_ring_that_the_engine_stopped(
    lab: Lab, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(tmp_path / "v")
    await lab.backend.start([spec(path)])
    with connect(path) as peer:
        set_up(peer)
        await rings_started(lab, 1)
        (engine_port,) = lab.plane.ports
        lab.plane.reports = [
            RingStopped(engine_port, 99, 1, "of an old session"),
            RingStopped(engine_port, 1, 1, "descriptor chain longer than the ring"),
            RingStopped(engine_port + 1, 1, 1, "of another port"),
        ]
        vhost = lab.port.vhost
        assert vhost is not None
        (ring,) = vhost.rings
        assert (ring.running, ring.problem) == (False, "descriptor chain longer than the ring")
        assert "port vm: ring 1 was stopped: descriptor chain longer than the ring" in caplog.text
        assert lab.port.state == "connected"


async def test_memory_that_was_cut_short_ends_the_session(lab: Lab, tmp_path: Path) -> None:
    path = str(tmp_path / "v")
    await lab.backend.start([spec(path)])
    with connect(path) as peer:
        set_up(peer)
        await rings_started(lab, 1)
        (engine_port,) = lab.plane.ports
        lab.plane.reports = [SessionEnded(engine_port, 1, "memory", 0)]
        await eventually(lambda: lab.port.state == "listening", "the end")
        assert await asyncio.to_thread(peer.recv, 1) == b""
    assert lab.port.last_end == "the file behind the guest's memory was cut short"


async def test_one_at_a_time(lab: Lab, tmp_path: Path) -> None:
    path = str(tmp_path / "v")
    await lab.backend.start([spec(path)])
    with connect(path), connect(path) as second:
        assert await asyncio.to_thread(second.recv, 1) == b""
        assert lab.port.refused == 1
        assert lab.port.state == "connected"


async def test_a_restarted_front_end_takes_over(lab: Lab, tmp_path: Path) -> None:
    path = str(tmp_path / "v")
    await lab.backend.start([spec(path)])
    first = connect(path)
    await eventually(lambda: lab.port.session, "the first")
    with connect(path) as second:
        first.close()
        send(second, raw(R.GET_FEATURES))
        assert len(await asyncio.to_thread(second.recv, 99)) == 20
    assert lab.port.refused == 0


async def test_what_the_engine_does_not_take(lab: Lab, tmp_path: Path) -> None:
    path = str(tmp_path / "v")
    await lab.backend.start([spec(path)])
    lab.plane.fail["attach"] = OSError(24, "Too many open files")
    with connect(path) as peer:
        assert await asyncio.to_thread(peer.recv, 1) == b""
    assert (lab.port.refused, lab.port.sessions) == (1, 0)


async def test_it_dials_and_dials_again(lab: Lab, tmp_path: Path) -> None:
    path = str(tmp_path / "v")
    await lab.backend.start([spec(path, dial=True)])
    await eventually(lambda: "no such file or directory, again in" in lab.port.detail, "it says why")
    with FakeStreamPeer.listen(path) as listener:
        for number in (1, 2):
            with await FakeStreamPeer.accept(listener) as peer:
                set_up(peer.sock)
                await rings_started(lab, number)
            await eventually(lambda: lab.port.state == "dialling", "again")
    assert lab.port.last_end == "the peer closed the connection"


@pytest.mark.parametrize("way", ["remove", "stop"])
async def test_the_control_socket_is_closed_when_the_rings_are_at_rest(
    lab: Lab, tmp_path: Path, way: str
) -> None:
    path = str(tmp_path / "v")
    await lab.backend.start([spec(path)])
    with connect(path) as peer:
        set_up(peer)
        await rings_started(lab, 1)
        if way == "remove":
            await lab.backend.remove_port("vm")
        else:
            await lab.backend.stop()
        assert await asyncio.to_thread(peer.recv, 1) == b""
    (event,) = lab.seen("PORT_DISCONNECTED")
    assert event.data["reason"] == ("the port was removed" if way == "remove" else "the backend stopped")
    assert not Path(path).exists()


async def test_with_the_engine_itself(tmp_path: Path) -> None:
    """Memory, an empty ring, its base, and an announcement that a neighbour hears."""
    path = str(tmp_path / "v")
    memory, kick = os.memfd_create("guest"), os.eventfd(0)
    os.truncate(memory, 1 << 20)
    place = Region(0, 1 << 20, 1 << 32, 0)
    try:
        async with Backend(name="test") as backend:
            await backend.start([spec(path)])
            with await backend.open_channel("neighbour") as channel, connect(path) as peer:
                send(peer, raw(R.SET_PROTOCOL_FEATURES, u64(int(PROTOCOL_FEATURES))))
                send(peer, raw(R.SET_FEATURES, u64(int(FEATURES)), flags=NEED_REPLY))
                send(peer, raw(R.SET_MEM_TABLE, table(place), flags=NEED_REPLY), [memory])
                send(peer, raw(R.SET_VRING_NUM, state(1, 256)))
                send(
                    peer,
                    raw(R.SET_VRING_ADDR, addresses(1, *(place.user_address + at for at in (0, 8192, 4096)))),
                )
                send(peer, raw(R.SET_VRING_KICK, u64(1), flags=NEED_REPLY), [kick])
                send(peer, raw(R.SEND_RARP, bytes([2, 0, 0, 0, 0, 1, 0, 0])))
                assert await channel.recv() == announcement(bytes([2, 0, 0, 0, 0, 1]))
                vhost = backend.snapshot().ports[0].vhost
                assert vhost is not None
                assert [(ring.index, ring.size, ring.running) for ring in vhost.rings] == [(1, 256, True)]
                send(peer, raw(R.GET_VRING_BASE, state(1, 0)))
                replies = b"".join([await asyncio.to_thread(peer.recv, 20) for _ in range(4)])
                assert replies[12:20] == replies[32:40] == replies[52:60] == u64(0)
                assert replies[72:] == state(1, 0)
                os.ftruncate(memory, 0)
                send(peer, raw(R.SET_VRING_KICK, u64(1)), [kick])
                await eventually(
                    lambda: backend.snapshot().ports[0].state == "listening", "the memory is gone"
                )
                assert "memory" in backend.snapshot().ports[0].last_end
    finally:
        os.close(memory)
        os.close(kick)
