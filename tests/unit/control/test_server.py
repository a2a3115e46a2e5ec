"""The server over real Unix sockets, with raw clients: framing, misbehaviour, start and end."""

import asyncio
import json
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue

from tests.unit.control.fakes import FakeBackend
from vbackend.control import server as server_module
from vbackend.control.commands import Arguments, Command, Desk
from vbackend.control.server import ControlServer
from vbackend.errors import ConfigError, HostError

DEADLINE = 20.0


@dataclass
class Served:
    path: str
    backend: FakeBackend = field(default_factory=FakeBackend)
    quits: int = 0

    def quit(self) -> None:
        self.quits += 1


class Raw:
    """A client that sends what it is told."""

    def __init__(self, path: str) -> None:
        self.path = path

    async def __aenter__(self) -> "Raw":
        self.reader, self.writer = await asyncio.open_unix_connection(self.path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()

    async def line(self) -> Any:
        async with asyncio.timeout(DEADLINE):
            data = await self.reader.readline()
        return json.loads(data) if data else None

    async def ask(self, data: bytes) -> Any:
        self.writer.write(data)
        return await self.line()

    async def negotiate(self) -> None:
        assert "QMP" in await self.line()
        assert await self.ask(b'{"execute":"qmp_capabilities"}') == {"return": {}}


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    found = Served(str(tmp_path / "control.sock"))
    async with ControlServer(found.path, version="1.2.3") as server:
        await server.serve(found.backend, found.quit)
        yield found
    assert found.backend.callbacks == []
    assert not Path(found.path).exists()


async def test_mode_and_place(served: Served) -> None:
    assert stat.S_IMODE(Path(served.path).stat().st_mode) == 0o600


async def test_a_conversation(served: Served) -> None:
    async with Raw(served.path) as client:
        greeting = await client.line()
        assert greeting["QMP"]["version"]["package"] == "vbackend 1.2.3"
        assert (await client.ask(b'{"execute":"query-ports"}'))["error"]["class"] == "CommandNotFound"
        assert await client.ask(b'{"execute":"qmp_capabilities","id":1}') == {"return": {}, "id": 1}
        answer = await client.ask(b'{"execute":"query-ports","id":{"x":2}}')
        assert [port["name"] for port in answer["return"]] == ["a", "b"]
        assert answer["id"] == {"x": 2}


async def test_replies_come_in_order_for_commands_in_one_write(served: Served) -> None:
    async with Raw(served.path) as client:
        await client.negotiate()
        client.writer.write(
            b"".join(b'{"execute":"query-version","id":%d}' % number for number in range(500))
        )
        assert [(await client.line())["id"] for _ in range(500)] == list(range(500))


@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        (ConfigError("no good"), "ConfigError", "no good"),
        (HostError("no tun"), "GenericError", "no tun"),
        (
            PermissionError(1, "Operation not permitted", "tap0"),
            "GenericError",
            "tap0: Operation not permitted",
        ),
        (ZeroDivisionError("oops"), "GenericError", "port-remove: internal error, see vbackend's log"),
    ],
)
async def test_errors_of_the_backend(
    served: Served, fault: Exception, kind: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with Raw(served.path) as client:
        await client.negotiate()
        served.backend.fault = fault
        error = (await client.ask(b'{"execute":"port-remove","arguments":{"name":"a"}}'))["error"]
        assert error["class"] == kind
        assert error["desc"].endswith(text)
        again = b'{"execute":"port-set","arguments":{"name":"a","up":false}}'
        assert (await client.ask(again))["return"]["name"] == "a"


async def test_events_reach_those_who_negotiated(served: Served) -> None:
    async with Raw(served.path) as listener, Raw(served.path) as stranger, Raw(served.path) as actor:
        await listener.negotiate()
        await actor.negotiate()
        await stranger.line()
        answer = await actor.ask(b'{"execute":"port-add","arguments":{"port":"stream:unix:/tmp/c,name=c"}}')
        assert answer["event"] == "PORT_ADDED"
        assert (await actor.line())["return"]["name"] == "c"
        event = await listener.line()
        assert (event["event"], event["data"]) == ("PORT_ADDED", {"port": "c"})
        assert set(event["timestamp"]) == {"seconds", "microseconds"}
        assert await stranger.ask(b'{"execute":"qmp_capabilities"}') == {"return": {}}


async def test_quit_answers_first(served: Served) -> None:
    async with Raw(served.path) as client:
        await client.negotiate()
        assert await client.ask(b'{"execute":"quit"}') == {"return": {}}
    assert served.quits == 1


@pytest.mark.parametrize("data", [b"hello\n", b"{]", b'{"' + b"x" * (1 << 20) + b"yy", b"\xff" * 100_000])
async def test_garbage_ends_that_session_only(served: Served, data: bytes) -> None:
    async with Raw(served.path) as good, Raw(served.path) as bad:
        await good.negotiate()
        await bad.line()
        assert (await bad.ask(data))["error"]["class"] == "GenericError"
        with suppress(ConnectionError):  # closed with bytes of ours unread
            assert await bad.line() is None
        assert "return" in await good.ask(b'{"execute":"query-version"}')


async def test_a_client_that_does_not_read_events_is_disconnected(served: Served) -> None:
    async with Raw(served.path) as good, Raw(served.path) as slow:
        await good.negotiate()
        await slow.negotiate()
        transport = slow.writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        text = "x" * 60_000
        for _ in range(200):
            served.backend.emit("PORT_REFUSED", {"reason": text})
            assert (await good.line())["event"] == "PORT_REFUSED"
        transport.resume_reading()
        received = 0
        with suppress(ConnectionError):  # a reset is an end too
            async with asyncio.timeout(DEADLINE):
                while data := await slow.reader.read(1 << 16):
                    received += len(data)
        assert received < 200 * 60_000


async def test_a_client_that_does_not_read_replies_is_disconnected(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_READ_PATIENCE", 0.05)
    with socket.socket(socket.AF_UNIX) as slow:
        slow.setblocking(False)
        slow.connect(served.path)
        loop = asyncio.get_running_loop()
        ask = b'{"execute":"qmp_capabilities"}' + b'{"execute":"query-status"}' * 50

        async def ask_forever() -> None:
            while True:
                await loop.sock_sendall(slow, ask)

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(ask_forever(), DEADLINE)


async def test_too_many_clients_are_turned_away(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_MAX_CLIENTS", 1)
    async with Raw(served.path) as first:
        await first.negotiate()
        async with Raw(served.path) as second:
            assert await second.line() is None
        assert "return" in await first.ask(b'{"execute":"query-version"}')


async def test_clients_wait_between_open_and_serve(tmp_path: Path) -> None:
    path = str(tmp_path / "control.sock")
    async with ControlServer(path, version="1") as server, Raw(path) as client:
        await server.serve(FakeBackend(), lambda: None)
        await client.negotiate()


async def test_close_ends_sessions_and_is_idempotent(tmp_path: Path) -> None:
    path = str(tmp_path / "control.sock")
    server = ControlServer(path, version="1")
    server.open()
    await server.serve(FakeBackend(), lambda: None)
    async with Raw(path) as client:
        await client.negotiate()
        await server.close()
        assert await client.line() is None
    await server.close()
    assert not Path(path).exists()


@pytest.mark.parametrize("turns", [4, 5])
async def test_a_client_that_comes_while_it_closes_is_not_served(tmp_path: Path, turns: int) -> None:
    """However far asyncio is with accepting it."""
    path = str(tmp_path / "x")
    async with ControlServer(path, version="1") as server:
        await server.serve(FakeBackend(), lambda: None)
        await asyncio.sleep(0.05)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            for _ in range(turns):
                await asyncio.sleep(0)
            await server.close()
            client.settimeout(DEADLINE)
            await asyncio.to_thread(lambda: list(iter(lambda: client.recv(100), b"")))
    assert len(asyncio.all_tasks()) == 1


async def test_path_of_a_living_server_is_an_error_that_names_it(served: Served) -> None:
    with pytest.raises(ConfigError, match=f"in use by process {os.getpid()} "):
        ControlServer(served.path, version="1").open()
    async with Raw(served.path) as client:
        await client.negotiate()


async def test_stale_path_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "control.sock")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    async with ControlServer(path, version="1") as server:
        await server.serve(FakeBackend(), lambda: None)
        async with Raw(path) as client:
            await client.negotiate()


async def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="its directory does not exist"):
        ControlServer(str(tmp_path / "a" / "b.sock"), version="1").open()


async def test_runtime_directory_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    async with ControlServer(str(tmp_path / "vbackend" / "x.sock"), version="1"):
        assert stat.S_IMODE((tmp_path / "vbackend").stat().st_mode) == 0o700


@pytest.mark.parametrize("half", [False, True], ids=["closed", "only its last word said"])
async def test_a_command_for_a_client_that_leaves(
    tmp_path: Path, half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_LOOK_AGAIN", 0.01)
    begun, finish, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work(_desk: Desk, _arguments: Arguments) -> JsonValue:
        begun.set()
        try:
            await finish.wait()
        finally:
            ended.set()
        return {"done": True}

    async with ControlServer(str(tmp_path / "c"), version="1") as server, asyncio.timeout(DEADLINE):
        await server.serve(FakeBackend(), lambda: None, {"work": Command(Arguments, work, for_client=True)})
        async with Raw(server.path) as client:
            await client.negotiate()
            client.writer.write(b'{"execute":"work"}')
            await begun.wait()
            if half:
                client.writer.write_eof()
                await asyncio.sleep(0.1)
                assert not ended.is_set()
                finish.set()
                assert await client.line() == {"return": {"done": True}}
        await ended.wait()
        assert finish.is_set() == half
