"""The demo's tables hold the numbers they were given, and steps say how they ended."""

import io

import pytest
from rich.console import Console

from tests.support.guest import PingResult
from tools.demo import report
from tools.demo.measure import RoundTrips, Stream
from vbackend.snapshot import BackendSnapshot, LaneCounters, PortSnapshot, SessionInfo


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=120, force_terminal=False)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def cells(console: Console) -> list[list[str]]:
    rows = [line.strip("│┃ ") for line in text_of(console).splitlines() if line.startswith(("│", "┃"))]
    return [[cell.strip() for cell in row.replace("┃", "│").split("│")] for row in rows]


def test_round_trips(console: Console) -> None:
    result = RoundTrips("alice", "bob", {4: PingResult(5, 5, 0, 0.5), 6: PingResult(5, 0, 0, None)})
    console.print(report.round_trips_table([result]))
    assert cells(console)[1] == ["alice", "bob", "5/5", "0.50 ms", "0/5", "-"]


def test_throughput(console: Console) -> None:
    console.print(report.throughput_table([Stream("alice", "host", 1234.5, 3)]))
    assert cells(console)[1] == ["alice", "host", "1,234", "3"]


def test_ports_show_frames_and_why_some_were_dropped(console: Console) -> None:
    port = PortSnapshot(
        name="alice",
        kind="stream",
        where="stream:unix:/x",
        up=True,
        state="connected",
        session=SessionInfo(number=1, peer="pid 7", since=0.0),
        queue_frames=256,
        queue_bytes=1,
        rx=LaneCounters(frames_in=12, frames_out=10, drops={"runt": 2}),
        tx=LaneCounters(frames_in=2001, frames_out=2000, drops={"queue-full": 1}),
    )
    idle = port.model_copy(update={"name": "bob", "session": None, "state": "listening"})
    snapshot = BackendSnapshot(
        name="demo", version="0", pid=1, started=0.0, workers=1, segments=(), ports=(port, idle)
    )
    console.print(report.ports_table(snapshot))
    assert cells(console)[1] == ["alice", "pid 7", "10", "2,000", "3", "rx runt 2, tx queue-full 1"]
    assert cells(console)[2][:2] == ["bob", "(listening)"]


def test_step_says_how_it_ended(console: Console) -> None:
    with report.step(console, "boot") as say:
        say("the kernel")
    with pytest.raises(RuntimeError), report.step(console, "ping"):
        raise RuntimeError
    assert text_of(console).splitlines() == ["  boot ... done (0.0 s)", "  ping ... failed"]
