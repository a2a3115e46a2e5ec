"""The backend: start, stop, live changes, names, events, and a worker that dies."""

import asyncio
import gc
import os
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.accounting import assert_accounts
from tests.support.frames import BROADCAST, frame, mac
from tests.support.qemu_peers import FakeStreamPeer, eventually
from vbackend.backend import Backend, BackendEvent
from vbackend.dataplane import Dataplane, DataplaneEvent, EventsLost, WorkerDied
from vbackend.errors import ConfigError
from vbackend.ports import listener
from vbackend.ports.parse import parse_port
from vbackend.ports.sockets import resolve
from vbackend.ports.spec import PortOptions, TcpAddress


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with Backend(name="test") as found:
        yield found


def names(backend: Backend) -> list[str]:
    return [port.name for port in backend.snapshot().ports]


def held() -> tuple[list[str], list[str]]:
    """The engine's threads, and what this process has open, without what an earlier test left to the collector."""
    gc.collect()
    threads = [(path / "comm").read_text() for path in Path("/proc/self/task").iterdir()]
    with os.scandir("/proc/self/fd") as entries:
        names = [entry.name for entry in entries]
    links = []
    for name in names:
        with suppress(FileNotFoundError):  # the listing's own
            links.append(str(Path(f"/proc/self/fd/{name}").readlink()))
    return [name for name in threads if name.startswith("vbackend-")], sorted(links)


async def test_started_means_every_port_listens(backend: Backend, tmp_path: Path) -> None:
    texts = [
        f"stream:unix:{tmp_path}/a.sock",
        "stream:tcp:127.0.0.1:0",
        f"dgram:unix:{tmp_path}/l:{tmp_path}/r",
    ]
    await backend.start([parse_port(text) for text in texts])
    assert [port.state for port in backend.snapshot().ports] == ["listening", "listening", "connected"]
    assert names(backend) == ["a", "tcp-0", "l"]
    snapshot = backend.snapshot()
    assert (snapshot.name, snapshot.pid, snapshot.workers) == ("test", os.getpid(), 1)
    assert (snapshot.segments[0].kind, snapshot.segments[0].ports) == ("switch", ("a", "tcp-0", "l"))


async def test_stop_takes_everything_away(tmp_path: Path) -> None:
    before = held()
    backend = Backend(name="test", workers=2)
    await backend.start([parse_port(f"stream:unix:{tmp_path}/{n}.sock") for n in range(10)])
    with await FakeStreamPeer.connect(f"{tmp_path}/0.sock") as peer:
        await eventually(lambda: backend.snapshot().ports[0].session, "connected")
        await asyncio.wait_for(backend.stop(), 2)
        await peer.expect_eof()
    await backend.stop()
    assert list(tmp_path.iterdir()) == []
    await eventually(lambda: held() == before, "no thread and no descriptor is left")
    with pytest.raises(ConfigError, match="not running"):
        backend.snapshot()


async def test_a_backend_can_be_started_again(backend: Backend, tmp_path: Path) -> None:
    for _ in range(2):
        await backend.start([parse_port(f"stream:unix:{tmp_path}/a.sock")])
        with pytest.raises(ConfigError, match="started already"):
            await backend.start([])
        await backend.stop()


async def test_a_start_that_fails_leaves_nothing(backend: Backend, tmp_path: Path) -> None:
    before = held()
    good = parse_port(f"stream:unix:{tmp_path}/a.sock")
    with pytest.raises(FileNotFoundError, match="no-such-folder"):
        await backend.start([good, parse_port(f"stream:unix:{tmp_path}/no-such-folder/b.sock")])
    assert list(tmp_path.iterdir()) == []
    await eventually(lambda: held() == before, "no thread and no descriptor is left")
    await backend.start([good])
    assert names(backend) == ["a"]


async def test_ports_come_and_go_live(backend: Backend, tmp_path: Path) -> None:
    await backend.start([])
    added = await backend.add_port(parse_port(f"stream:unix:{tmp_path}/a.sock"))
    assert (added.name, added.state) == ("a", "listening")
    with await FakeStreamPeer.connect(f"{tmp_path}/a.sock") as peer:
        await eventually(lambda: backend.snapshot().ports[0].session, "connected")
        await backend.remove_port("a")
        await peer.expect_eof()
    assert (names(backend), list(tmp_path.iterdir())) == ([], [])
    with pytest.raises(FileNotFoundError):
        await backend.add_port(parse_port(f"stream:unix:{tmp_path}/none/a.sock"))
    assert names(backend) == []


async def test_names_are_unique(backend: Backend, tmp_path: Path) -> None:
    for folder in ("one", "two", "three"):
        (tmp_path / folder).mkdir()
    await backend.start(
        [
            parse_port(f"stream:unix:{tmp_path}/one/a.sock"),
            parse_port(f"stream:unix:{tmp_path}/two/a.sock"),
            parse_port(f"stream:unix:{tmp_path}/two/b.sock,name=a"),
        ]
    )
    assert names(backend) == ["a-2", "a-3", "a"]
    spec = parse_port(f"stream:unix:{tmp_path}/three/a.sock,name=a-2")
    with pytest.raises(ConfigError, match="the name 'a-2' is taken"):
        await backend.add_port(spec)


async def test_a_guest_that_is_early_takes_no_name_of_a_port_to_come(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, peers = f"{tmp_path}/m.sock", list[FakeStreamPeer]()

    async def slow(address: TcpAddress, kind: socket.SocketKind) -> object:
        peers.append(await FakeStreamPeer.connect(path))
        await eventually(lambda: backend.snapshot().ports[0].sessions, "the guest is there")
        return await resolve(address, kind)

    monkeypatch.setattr(listener, "resolve", slow)
    texts = [
        f"stream:unix:{path},multi",
        "stream:tcp:127.0.0.1:0,name=slow",
        f"stream:unix:{tmp_path}/x,name=m.1",
    ]
    await backend.start([parse_port(text) for text in texts])
    assert names(backend) == ["m", "slow", "m.2", "m.1"]
    peers[0].close()
    await eventually(lambda: names(backend) == ["m", "slow", "m.1"], "its port is gone")


async def test_a_name_given_twice_is_refused_before_anything_is_opened(
    backend: Backend, tmp_path: Path
) -> None:
    specs = [parse_port(f"stream:unix:{tmp_path}/{n}.sock,name=a") for n in range(2)]
    with pytest.raises(ConfigError, match="the name 'a' is taken"):
        await backend.start(specs)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["remove_port", "set_port"])
async def test_a_port_that_is_not_there(backend: Backend, tmp_path: Path, call: str) -> None:
    await backend.start([parse_port(f"stream:unix:{tmp_path}/a.sock")])
    with pytest.raises(ConfigError, match="there is no port 'b'; there are a"):
        await getattr(backend, call)("b")


async def test_a_limit_of_nothing_is_refused(backend: Backend, tmp_path: Path) -> None:
    await backend.start([parse_port(f"stream:unix:{tmp_path}/a.sock")])
    with pytest.raises(ConfigError, match="queue is 0; give a number above 0"):
        await backend.set_port("a", queue_frames=0)


async def test_a_cable_has_two_ports(tmp_path: Path) -> None:
    specs = [parse_port(f"stream:unix:{tmp_path}/{n}.sock") for n in range(3)]
    many = parse_port(f"stream:unix:{tmp_path}/m.sock,multi")
    async with Backend(name="test", segment="cable") as backend:
        for wrong in (specs[:1], specs):
            with pytest.raises(ConfigError, match="a cable joins two ports, not"):
                await backend.start(wrong)
        with pytest.raises(ConfigError, match="takes many guests"):
            await backend.start([specs[0], many])
        await backend.start(specs[:2])
        with pytest.raises(ConfigError, match="has both; remove one first"):
            await backend.add_port(specs[2])
        ours, theirs = socket.socketpair()
        with theirs, pytest.raises(ConfigError, match="has both"):
            await backend.adopt("stream", ours, PortOptions(), "stream:fd")
        await backend.remove_port("0")
        await backend.add_port(specs[2])
        assert names(backend) == ["1", "2"]


async def test_link_local_frames_pass_a_cable_and_not_a_switch() -> None:
    lacp = frame(bytes.fromhex("0180c2000002"), mac(1), b"lacp")
    for kind in ("cable", "switch"):
        async with Backend(name="test", segment="cable" if kind == "cable" else "switch") as backend:
            await backend.start([], to_come=2 if kind == "cable" else 0)
            with await backend.open_channel("a") as a, await backend.open_channel("b") as b:
                await a.send(lacp)
                await a.send(frame(BROADCAST, mac(1)))
                assert await b.recv() == (lacp if kind == "cable" else frame(BROADCAST, mac(1)))
                assert_accounts(backend.snapshot())


async def test_events_are_told_in_order(backend: Backend, tmp_path: Path) -> None:
    events: list[BackendEvent] = []
    unsubscribe = backend.subscribe(events.append)
    await backend.start([parse_port(f"stream:unix:{tmp_path}/a.sock")])
    peer = await FakeStreamPeer.connect(f"{tmp_path}/a.sock")
    await eventually(lambda: len(events) == 2, "connected")
    with await FakeStreamPeer.connect(f"{tmp_path}/a.sock") as second:
        await second.expect_eof()
    peer.close()
    await eventually(lambda: len(events) == 4, "disconnected")
    await backend.remove_port("a")
    unsubscribe()
    unsubscribe()
    (await backend.open_channel("c")).close()
    told = [(event.name, event.data["port"]) for event in events]
    kinds = ["ADDED", "CONNECTED", "REFUSED", "DISCONNECTED", "REMOVED"]
    assert told == [(f"PORT_{kind}", "a") for kind in kinds]
    assert events[1].data["session"] == events[3].data["session"] == 1
    assert events[3].data["reason"] == "the peer closed the connection"


async def test_the_forwarding_database_names_ports(backend: Backend) -> None:
    await backend.start([])
    with await backend.open_channel("a") as a, await backend.open_channel("b") as b:
        await a.send(frame(BROADCAST, mac(1)))
        await b.recv()
        (entry,) = backend.snapshot().segments[0].fdb
        assert (entry.mac, entry.port) == ("52:54:00:00:00:01", "a")
        assert 0 <= entry.age < 10


class Reporting(Dataplane):
    """The real engine, with reports that it rarely makes."""

    said: DataplaneEvent | None = None

    def drain_events(self) -> list[DataplaneEvent]:
        said, self.said = self.said, None
        return super().drain_events() + ([] if said is None else [said])


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (WorkerDied(0, "index out of bounds"), "worker of the engine died: index out"),
        (EventsLost(3), "lost 3 events"),
    ],
)
async def test_an_engine_that_cannot_go_on_is_a_failure(event: DataplaneEvent, words: str) -> None:
    made: list[Reporting] = []

    def engine(workers: int) -> Dataplane:
        made.append(Reporting(workers))
        return made[-1]

    async with Backend(name="test", engine=engine) as backend:
        await backend.start([])
        failure = backend.failure
        assert not failure.done()
        made[0].said = event
        backend.snapshot()
        assert words in await failure
        made[0].said = event
        backend.snapshot()
