"""Our client, qemu.qmp's own and `qmp-shell` against the server."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from qemu.qmp import ExecuteError, QMPClient

from tests.unit.control.fakes import FakeBackend
from vbackend.control.client import ControlClient, call, port_snapshot, status
from vbackend.control.place import lab_control_path
from vbackend.control.server import ControlServer
from vbackend.errors import ConfigError, ControlError

DEADLINE = 30.0


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[str]:
    found = str(tmp_path / "control.sock")
    async with ControlServer(found, version="1.2.3") as server:
        await server.serve(FakeBackend(), lambda: None)
        yield found


async def test_async_client(path: str) -> None:
    async with ControlClient(path) as client:
        assert await client.status() == FakeBackend().snapshot()
        answer = await client.execute("port-set", {"name": "a", "queue": 7})
        assert port_snapshot(path, answer).queue_frames == 7
        with pytest.raises(ConfigError, match="there is no port 'zz'"):
            await client.execute("port-remove", {"name": "zz"})
        with pytest.raises(ControlError, match="there is no command 'dance'"):
            await client.execute("dance")


async def test_sync_client(path: str) -> None:
    assert await asyncio.to_thread(status, path) == FakeBackend().snapshot()
    assert await asyncio.to_thread(call, path, "port-remove", {"name": "a"}) == {}


async def test_events(path: str) -> None:
    async with ControlClient(path) as watcher, ControlClient(path) as actor:
        events = watcher.events()
        await actor.execute("port-remove", {"name": "a"})
        async with asyncio.timeout(DEADLINE):
            event = await anext(events)
        assert (event["event"], event["data"]) == ("PORT_REMOVED", {"port": "a"})


async def test_qemu_qmp_client(path: str) -> None:
    client = QMPClient("test")
    await client.connect(path)
    try:
        assert client.greeting is not None
        assert client.greeting.QMP.version["package"] == "vbackend 1.2.3"
        ports = await client.execute("query-ports")
        assert isinstance(ports, list)
        with pytest.raises(ExecuteError, match="argument 'port' is missing"):
            await client.execute("port-add")
        await client.execute("port-add", {"port": "tap:vb0"})
        async with asyncio.timeout(DEADLINE):
            event = await client.events.get()
        assert event["event"] == "PORT_ADDED"
    finally:
        await client.disconnect()


async def test_qmp_shell(path: str) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import sys; from qemu.qmp.qmp_shell import main; sys.exit(main())",
        path,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "HOME": str(Path(path).parent)},
    )
    script = b"""query-version
port-set name=a up=false queue=12
port-add port=stream:unix:/tmp/x,name=x
port-remove name=zz
"""
    async with asyncio.timeout(DEADLINE):
        out, err = await child.communicate(script)
    text = out.decode()
    assert child.returncode == 0, err.decode()
    assert "Connected to QEMU 1.2.3" in text
    replies = [json.loads(line[line.index("{") :]) for line in text.splitlines() if "{" in line]
    assert replies[0]["return"]["package"] == "vbackend 1.2.3"
    assert (replies[1]["return"]["up"], replies[1]["return"]["queue_frames"]) == (False, 12)
    assert replies[2]["return"]["name"] == "x"
    assert replies[3]["error"]["class"] == "ConfigError"


async def test_nobody_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    missing = str(tmp_path / "vbackend" / "x.sock")
    with pytest.raises(ControlError, match=r"nobody serves it; start `vbackend run` first$"):
        await ControlClient(missing).__aenter__()
    (tmp_path / "vbackend").mkdir()
    (tmp_path / "vbackend" / "lab.sock").touch()
    with pytest.raises(ControlError, match=r"there are sockets of: lab \(give --name\)"):
        await ControlClient(missing).__aenter__()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(missing)
    with pytest.raises(ControlError, match=r"there are sockets of: lab \("):  # not of the one that is asked
        await ControlClient(missing).__aenter__()
    stale = str(tmp_path / "stale")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(stale)
    with pytest.raises(ControlError, match="nobody serves it"):
        await asyncio.to_thread(call, stale, "quit")


async def test_the_process_of_a_lab_is_dead_or_never_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    path = lab_control_path("two", {"XDG_RUNTIME_DIR": str(tmp_path)})
    with pytest.raises(ControlError, match="lab 'two' does not run; `vbackend up` with its file starts it"):
        await ControlClient(path).__aenter__()
    Path(path).parent.mkdir(parents=True)
    with pytest.raises(ControlError, match="lab 'two': its process is dead; `vbackend up two` takes"):
        await ControlClient(path).__aenter__()


async def test_a_path_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at most 107"):
        await ControlClient(str(tmp_path / ("x" * 200))).__aenter__()


@pytest.mark.parametrize(
    ("greeting", "words"),
    [
        (b"SSH-2.0-OpenSSH\r\n", "is no vbackend: "),
        (b"{}\n", "is no vbackend: "),
        (b"[]\n", "is no vbackend: "),
        (b"", "hung up at once: it ends, it has too many clients, or it is no vbackend; try again"),
    ],
)
async def test_something_else_serves(tmp_path: Path, greeting: bytes, words: str) -> None:
    path = str(tmp_path / "other")

    async def other(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        writer.close()

    server = await asyncio.start_unix_server(other, path)
    try:
        with pytest.raises(ControlError, match=words) as caught:
            await ControlClient(path).__aenter__()
        assert "\n" not in str(caught.value)
    finally:
        server.close()


async def test_server_that_leaves_in_the_middle(tmp_path: Path) -> None:
    path = str(tmp_path / "control.sock")
    async with ControlServer(path, version="1") as server:
        await server.serve(FakeBackend(), lambda: None)
        async with ControlClient(path) as client:
            await client.execute("query-version")
            await server.close()
            with pytest.raises(ControlError, match="query-version"):
                await client.execute("query-version")


def test_an_answer_of_another_version() -> None:
    with pytest.raises(ControlError, match="does not fit at 'name'; is it another version"):
        port_snapshot("/x", {"kind": "stream"})
