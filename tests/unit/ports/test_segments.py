"""Segments of one backend: many at once, frames stay inside theirs, and the errors."""

from collections.abc import AsyncIterator

import pytest

from tests.support.frames import frame
from vbackend.backend import Backend
from vbackend.errors import ConfigError
from vbackend.ports.parse import parse_port

A, B = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with Backend(name="test", segment=None) as found:
        await found.start([])
        yield found


async def test_frames_stay_in_their_segment(backend: Backend) -> None:
    for name in ("one", "two"):
        backend.add_segment(name, "switch")
    a, b = [await backend.open_channel(name, segment="one") for name in ("a", "b")]
    c = await backend.open_channel("c", segment="two")
    sent = frame(B, A, b"hello")
    await a.send(sent)
    assert await b.recv() == sent
    ports = {port.name: port for port in backend.snapshot().ports}
    assert ports["c"].tx.frames_in == 0
    assert [(each.name, each.kind, each.ports) for each in backend.snapshot().segments] == [
        ("one", "switch", ("a", "b")),
        ("two", "switch", ("c",)),
    ]
    assert [entry.port for entry in backend.snapshot().segments[0].fdb] == ["a"]
    del c


async def test_a_cable_is_removed_when_its_ports_are(backend: Backend) -> None:
    backend.add_segment("core", "cable")
    await backend.open_channel("a", segment="core")
    with pytest.raises(ConfigError, match=r"cable 'core' has ports still \(a\)"):
        backend.remove_segment("core")
    await backend.remove_port("a")
    backend.remove_segment("core")
    assert backend.snapshot().segments == ()
    backend.add_segment("core", "switch")


async def test_what_cannot_be(backend: Backend) -> None:
    with pytest.raises(ConfigError, match="there is no segment 'x'; there are none"):
        await backend.open_channel("a", segment="x")
    backend.add_segment("core", "cable")
    with pytest.raises(ConfigError, match="there is a segment 'core' already"):
        backend.add_segment("core", "switch")
    for many in ("stream:unix:/nowhere,multi", "vde:/nowhere/sw"):
        with pytest.raises(ConfigError, match="takes many guests"):
            await backend.add_port(parse_port(many), segment="core")
    for name in ("a", "b"):
        await backend.open_channel(name)  # the only segment need not be named
    with pytest.raises(ConfigError, match="cable 'core' joins two ports and has both"):
        await backend.open_channel("c")
    backend.add_segment("lan", "switch")
    with pytest.raises(ConfigError, match="which segment is not said; there are core, lan"):
        await backend.open_channel("c")
