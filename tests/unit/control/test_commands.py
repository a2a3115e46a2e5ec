"""The command table against a small backend."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.pcapng import parse
from tests.unit.control.fakes import FakeBackend
from vbackend.control.commands import COMMANDS, CommandNotFoundError, Desk, perform
from vbackend.errors import ConfigError
from vbackend.snapshot import BackendSnapshot, ImpairmentSnapshot, PortSnapshot


@dataclass
class Bench:
    backend: FakeBackend = field(default_factory=FakeBackend)
    quits: int = 0
    path: str = ""

    def quit(self) -> None:
        self.quits += 1

    async def __call__(self, command: str, /, **arguments: Any) -> Any:
        given = {key.replace("_", "-"): value for key, value in arguments.items()}
        return await perform(Desk(self.backend, self.quit, self.path), command, given)


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_queries(bench: Bench) -> None:
    status = await bench("query-status")
    assert BackendSnapshot.model_validate(status) == bench.backend.snapshot()
    assert await bench("query-ports") == status["ports"]
    assert await bench("query-segments") == status["segments"]
    assert (await bench("query-version"))["package"] == "vbackend 1.2.3"
    names = [command["name"] for command in await bench("query-commands")]
    assert names == ["qmp_capabilities", *COMMANDS]


async def test_port_add_and_remove(bench: Bench) -> None:
    added = PortSnapshot.model_validate(await bench("port-add", port="stream:unix:/tmp/c,name=c"))
    assert (added.name, added.where) == ("c", "stream:unix:/tmp/c")
    assert await bench("port-remove", name="c") == {}
    assert list(bench.backend.ports) == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        ({"up": False}, {"up": False}),
        ({"up": True}, {"up": True}),
        ({"queue": 1}, {"queue_frames": 1}),
        ({"rate": 10_000, "burst": 9_000}, {"rate": 10_000, "burst": 9_000}),
        (
            {"impair": "off", "delay": "50ms", "loss": 0.5, "seed": 7},
            {"impairment": ImpairmentSnapshot(settings={"delay": "50ms", "loss": "50%", "seed": "7"})},
        ),
        ({"queue": 65_536, "queue_bytes": 69_632}, {"queue_frames": 65_536, "queue_bytes": 69_632}),
    ],
)
async def test_port_set(bench: Bench, arguments: dict[str, Any], changed: dict[str, Any]) -> None:
    before = bench.backend.ports["a"]
    answer = PortSnapshot.model_validate(await bench("port-set", name="a", **arguments))
    assert answer == before.model_copy(update=changed) == bench.backend.ports["a"]


async def test_capture_start(bench: Bench, tmp_path: Path) -> None:
    bench.path = f"{tmp_path}/control"
    answer = await bench(
        "capture-start", ports=["b"], filter="ip", snaplen=96, count=2, **{"unit-link": "raw"}
    )
    assert answer == {"path": f"{tmp_path}/control.capture-1"}
    assert bench.backend.captures == [("ip", 96, 2, "raw")]
    reader, writer = await asyncio.open_unix_connection(answer["path"])
    data = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert [one.name for one in parse(data).interfaces] == ["b"]


async def test_capture_start_of_links(bench: Bench, tmp_path: Path) -> None:
    bench.path = f"{tmp_path}/control"
    links: list[list[str]] = [[], ["core"]]
    for each in links:
        answer = await bench("capture-start", links=each, count=2)
        reader, writer = await asyncio.open_unix_connection(answer["path"])
        assert await reader.read()
        writer.close()
        await writer.wait_closed()
    assert bench.backend.links == links


async def test_frame_inject(bench: Bench) -> None:
    assert await bench("frame-inject", port="b", frame="AAEC") == {}
    assert bench.backend.injected == [("b", b"\0\1\2")]


async def test_quit(bench: Bench) -> None:
    assert await bench("quit") == {}
    assert bench.quits == 1


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("query-status", {"x": 1}, "query-status: argument 'x' is not known; it takes none"),
        ("port-add", {}, "port-add: argument 'port' is missing"),
        ("port-add", {"port": 5}, "port-add: argument 'port': input should be a valid string"),
        ("port-add", {"port": "tpa:x"}, "port 'tpa:x': 'tpa' is no kind of port; did you mean 'tap'?"),
        ("port-remove", {"name": "zz"}, "there is no port 'zz'; there are a, b"),
        ("port-set", {"name": "a"}, "port-set: nothing to change; give up, queue, queue-bytes, rate, burst"),
        ("port-set", {"name": "a", "impair": "on"}, "port-set: argument 'impair': input should be 'off'"),
        ("port-set", {"name": "a", "delay": [5]}, "port-set: argument 'delay"),
        ("frame-inject", {"port": "zz", "frame": ""}, "there is no port 'zz'; there are a, b"),
        ("frame-inject", {"port": "a", "frame": "AAE"}, "frame-inject: argument 'frame': "),
        (
            "frame-inject",
            {"port": "a", "frame": 7},
            "frame-inject: argument 'frame': input should be a valid bytes",
        ),
        ("capture-start", {"ports": ["zz"]}, "there is no port 'zz'; there are a, b"),
        ("capture-start", {"ports": ["a"], "links": []}, "capture-start: ports and links are two kinds of"),
        ("capture-start", {"count": 0}, "capture-start: argument 'count': input should be greater"),
        ("capture-start", {"snaplen": 262_145}, "capture-start: argument 'snaplen': input should be less"),
        ("port-set", {"name": "a", "up": "yes"}, "port-set: argument 'up': input should be a valid boolean"),
        ("port-set", {"name": "a", "up": 1}, "port-set: argument 'up': input should be a valid boolean"),
        (
            "port-set",
            {"name": "a", "queue": 0},
            "port-set: argument 'queue': input should be greater than or equal to 1",
        ),
        (
            "port-set",
            {"name": "a", "queue_bytes": 100},
            "port-set: argument 'queue-bytes': input should be greater",
        ),
        (
            "port-set",
            {"name": "a", "speed": 1},
            "port-set: argument 'speed' is not known; there are impair, delay, jitter, overtake, loss, duplicate, ",
        ),
    ],
)
async def test_bad_arguments(bench: Bench, name: str, arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await bench(name, **arguments)
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("query-port", "did you mean 'query-ports'?"), ("x" * 200, "query-commands lists them"), ("", "query")],
)
async def test_unknown_command(bench: Bench, name: str, hint: str) -> None:
    with pytest.raises(CommandNotFoundError) as caught:
        await bench(name)
    assert hint in str(caught.value)
    assert len(str(caught.value)) < 150
