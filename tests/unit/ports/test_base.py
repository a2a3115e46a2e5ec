"""The state that all ports share, seen on a channel port and a listening one."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.frames import BROADCAST, frame, mac
from tests.support.qemu_peers import FakeStreamPeer, eventually
from vbackend.backend import Backend
from vbackend.dataplane import SessionEnded
from vbackend.errors import ConfigError
from vbackend.ports.impairment import Gilbert, Impairment
from vbackend.ports.parse import parse_port


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[Backend]:
    async with Backend(name="test", queue_frames=99) as found:
        await found.start(
            [parse_port(f"stream:unix:{tmp_path}/a.sock,mac=52:54:00:00:00:01,isolated,queue=5")]
        )
        yield found


async def test_a_snapshot_tells_what_was_asked_for(backend: Backend, tmp_path: Path) -> None:
    (port,) = backend.snapshot().ports
    path = f"{tmp_path}/a.sock"
    assert (port.name, port.kind, port.where) == ("a", "stream", f"stream:unix:{path}")
    assert (port.state, port.detail) == ("listening", f"on {path}")
    assert (port.mac, port.isolated, port.queue_frames, port.queue_bytes) == (
        "52:54:00:00:00:01",
        True,
        5,
        2_097_152,
    )
    assert (port.session, port.sessions, port.refused, port.last_end) == (None, 0, 0, "")


async def test_the_backends_default_is_for_ports_that_name_none(backend: Backend) -> None:
    (await backend.open_channel("python")).close()
    assert backend.snapshot().ports[1].queue_frames == 99


async def test_down_is_seen_and_taken_back(backend: Backend) -> None:
    down = await backend.set_port("a", up=False)
    assert (down.up, down.state, down.detail) == (False, "down", "set down")
    up = await backend.set_port("a", up=True, queue_bytes=70_000)
    assert (up.up, up.state, up.queue_bytes, up.queue_frames) == (True, "listening", 70_000, 5)


async def test_a_rate_comes_changes_and_goes(backend: Backend, tmp_path: Path) -> None:
    assert (backend.snapshot().ports[0].rate, backend.snapshot().ports[0].burst) == (None, None)
    with pytest.raises(ConfigError, match="a burst is of no use without a rate"):
        await backend.set_port("a", burst=50_000)
    for rate, burst, expected in (
        (1_000_000, None, (1_000_000, 16_384)),
        (None, 50_000, (1_000_000, 50_000)),
        (2_000_000, None, (2_000_000, 50_000)),
        (1_000_000_000, None, (1_000_000_000, 1_250_000)),
        (0, None, (None, None)),
    ):
        port = await backend.set_port("a", rate=rate, burst=burst)
        assert (port.rate, port.burst) == expected, (rate, burst)
    added = await backend.add_port(parse_port(f"stream:unix:{tmp_path}/b.sock,rate=8M,burst=1"))
    assert (added.rate, added.burst) == (8_000_000, 10_000)


async def test_an_impairment_comes_changes_and_goes(backend: Backend, tmp_path: Path) -> None:
    assert backend.snapshot().ports[0].impairment is None
    with pytest.raises(ConfigError, match=r"port 'a': jitter \(5ms\) exceeds delay \(0\)"):
        await backend.set_port("a", impairment={"jitter": "5ms"})
    found = (await backend.set_port("a", impairment={"delay": "50ms", "loss": "1%"})).impairment
    assert found is not None
    seed = found.settings["seed"]
    assert (found.settings, found.held_frames) == ({"delay": "50ms", "loss": "1%", "seed": seed}, 0)
    found = (await backend.set_port("a", impairment={"loss": "off"})).impairment
    assert found is not None
    assert found.settings == {"delay": "50ms", "seed": seed}, "a seed that was picked is kept"
    assert (await backend.set_port("a", impairment={"impair": "off"})).impairment is None
    found = (await backend.set_port("a", impairment=Impairment(loss=Gilbert(0.01, 0.1), seed=7))).impairment
    assert found is not None
    assert found.settings == {"loss": "gilbert:p=1%,r=10%", "seed": "7"}
    added = await backend.add_port(parse_port(f"stream:unix:{tmp_path}/b.sock,corrupt=1%,seed=9"))
    assert added.impairment is not None
    assert added.impairment.settings == {"corrupt": "1%", "seed": "9"}


async def test_the_end_of_an_older_session_is_old_news(backend: Backend, tmp_path: Path) -> None:
    with await FakeStreamPeer.connect(f"{tmp_path}/a.sock"):
        await eventually(lambda: backend.snapshot().ports[0].session, "connected")
        port = backend._ports["a"]
        assert port.engine_port is not None
        port.ended(SessionEnded(port.engine_port, port._engine_session + 1000, "eof", 0))
        assert port.session is not None


async def test_engine_ports_are_spread_over_the_workers(tmp_path: Path) -> None:
    async with Backend(name="test", workers=3) as backend:
        await backend.start([parse_port(f"stream:unix:{tmp_path}/{number}.sock") for number in range(6)])
        assert [port.worker for port in backend.snapshot().ports] == [0, 1, 2, 0, 1, 2]


async def test_a_frame_of_nobody(backend: Backend, tmp_path: Path) -> None:
    await backend.add_port(parse_port(f"stream:unix:{tmp_path}/b,name=b"))
    await backend.add_port(parse_port(f"stream:unix:{tmp_path}/m,multi,name=m"))
    backend.inject("a", frame(BROADCAST, mac(1), size=60))
    await eventually(lambda: backend.snapshot().ports[1].tx.drops == {"no-peer": 1}, "a frame for b")
    assert [entry.port for entry in backend.snapshot().segments[0].fdb] == ["a"]
    backend.unlearn("m")
    backend.unlearn("a")
    assert backend.snapshot().segments[0].fdb == ()
    backend.dial_now("a")
    for name, data, why in (("a", b"short", "a frame of 5 bytes"), ("m", bytes(60), "ports of their own")):
        with pytest.raises(ConfigError, match=why):
            backend.inject(name, data)
