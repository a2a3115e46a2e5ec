"""The captures of a backend: of which ports, where they are offered, and when they end."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.frames import BROADCAST, frame, mac
from tests.support.pcapng import parse
from tests.support.qemu_peers import FakeStreamPeer, eventually
from vbackend.backend import Backend
from vbackend.errors import ConfigError
from vbackend.ports.parse import parse_port


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with Backend(name="test") as found:
        yield found


def names(backend: Backend) -> list[str]:
    return [port.name for port in backend.snapshot().ports]


async def test_a_capture_of_a_multi_port_is_one_of_its_peers(backend: Backend, tmp_path: Path) -> None:
    await backend.start([parse_port(f"stream:unix:{tmp_path}/m.sock,multi,name=m")])
    beside = f"{tmp_path}/control"
    with pytest.raises(ConfigError, match="no port with frames of its own yet"):
        await backend.capture(["m"], beside=beside)
    with await FakeStreamPeer.connect(f"{tmp_path}/m.sock") as peer:
        await eventually(lambda: len(names(backend)) == 2, "the peer has its port")
        paths = [await backend.capture(["m", "m"], beside=beside), await backend.capture(beside=beside)]
        assert paths == [f"{beside}.capture-1", f"{beside}.capture-2"]
        for path in paths:
            reader, writer = await asyncio.open_unix_connection(path)
            head = await asyncio.wait_for(reader.readuntil(b"stream:unix:"), 10)
            await peer.send_frames(frame(BROADCAST, mac(1), size=60))
            writer.write_eof()
            capture = parse(head + await asyncio.wait_for(reader.read(), 10))
            writer.close()
            assert [one.name for one in capture.interfaces] == [names(backend)[1]]


async def test_stop_takes_captures_away(backend: Backend, tmp_path: Path) -> None:
    await backend.start([parse_port(f"stream:unix:{tmp_path}/a.sock")])
    path = await backend.capture(beside=f"{tmp_path}/control")
    assert Path(path).exists()
    await asyncio.wait_for(backend.stop(), 5)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="not running"):
        await backend.capture(beside=f"{tmp_path}/control")


async def test_without_names_what_comes_later_is_captured_too(backend: Backend, tmp_path: Path) -> None:
    """Also when the filter does not fit it: then it is left out, and the capture goes on."""
    await backend.start([parse_port(f"stream:unix:{tmp_path}/a.sock,name=a")])
    for filter, expected in ((None, ["a", "b", "u"]), ("ether src 52:54:00:00:00:01", ["a", "b"])):
        path = await backend.capture(beside=f"{tmp_path}/control", expression=filter)
        reader, writer = await asyncio.open_unix_connection(path)
        head = await asyncio.wait_for(reader.readuntil(b"a.sock"), 10)
        await backend.add_port(parse_port(f"unit:{tmp_path}/u.sock,name=u,addr=10.7.0.1"))
        await backend.add_port(parse_port(f"stream:unix:{tmp_path}/b.sock,name=b"))
        head += await asyncio.wait_for(reader.readuntil(b"b.sock"), 10)
        writer.write_eof()
        capture = parse(head + await asyncio.wait_for(reader.read(), 10))
        writer.close()
        assert sorted(one.name for one in capture.interfaces) == expected
        await backend.remove_port("b")
        await backend.remove_port("u")


async def test_links_are_checked_by_name(backend: Backend, tmp_path: Path) -> None:
    await backend.start([parse_port(f"stream:unix:{tmp_path}/{name}.sock,name={name}") for name in "ab"])
    with pytest.raises(ConfigError, match="there is no link 'a'; there are test/a, test/b"):
        await backend.capture(links=["a"], beside=f"{tmp_path}/control")
    path = await backend.capture(links=["test/b"], beside=f"{tmp_path}/control")
    reader, writer = await asyncio.open_unix_connection(path)
    head = await asyncio.wait_for(reader.readuntil("test → b".encode()), 10)
    writer.write_eof()
    capture = parse(head + await asyncio.wait_for(reader.read(), 10))
    writer.close()
    assert [one.name for one in capture.interfaces] == ["b → test", "test → b"]
