"""The client of a capture: whole blocks, an end in order on a signal, and a reader that goes away."""

import asyncio
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
from pydantic import JsonValue

from tests.support.pcapng import parse, read
from tests.support.run import VBACKEND, wait_until
from tests.unit.cli.harness import served
from vbackend.control import capture as capture_module
from vbackend.control.capture import capture
from vbackend.errors import ConfigError, ControlError


def to(path: Path) -> Callable[[], BinaryIO]:
    return lambda: path.open("wb")


def test_until_the_count(tmp_path: Path) -> None:
    with served(f"{tmp_path}/c") as backend:
        arguments: dict[str, JsonValue] = {"ports": ["a"], "filter": "ip", "snaplen": 96, "count": 2}
        tally = capture(f"{tmp_path}/c", arguments, to(tmp_path / "f"))
        assert backend.captures == [("ip", 96, 2, None)]
    assert (tally.packets, tally.lost) == (2, 3)
    found = read(tmp_path / "f")
    assert (len(found.packets), found.statistics["a"]["drop"]) == (2, 3)


def test_the_backend_may_be_at_home_in_another_folder(tmp_path: Path) -> None:
    command = [*VBACKEND, "run", "--control", "c", "--ready-fd", "1", "stream:unix:a", "stream:unix:b"]
    (tmp_path / "there").mkdir()
    with subprocess.Popen(command, cwd=tmp_path / "there", stdout=subprocess.PIPE) as backend:
        try:
            assert backend.stdout is not None
            assert backend.stdout.readline() == b"READY\n"
            output = tmp_path / "f"

            def strike() -> None:
                wait_until(lambda: output.exists() and output.stat().st_size, "the head of the capture")
                backend.terminate()

            striker = threading.Thread(target=strike)
            striker.start()
            capture(f"{tmp_path}/there/c", {}, to(output))
            striker.join()
        finally:
            backend.terminate()
    assert [one.name for one in read(output).interfaces] == ["a", "b"]


@pytest.mark.usefixtures("in_terminal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_an_end_in_order(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    output = tmp_path / "f"

    def strike() -> None:
        wait_until(lambda: output.exists() and output.stat().st_size, "the first packets")
        os.kill(os.getpid(), number)

    with served(f"{tmp_path}/c"):
        striker = threading.Thread(target=strike)
        striker.start()
        tally = capture(f"{tmp_path}/c", {}, to(output))
        striker.join()
    assert (tally.packets, tally.lost) == (2, 3)
    assert list(read(output).statistics) == ["a", "b"]
    assert signal.getsignal(number) == before


def test_a_reader_that_goes_away_is_an_end(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with served(f"{tmp_path}/c"):
        tally = capture(f"{tmp_path}/c", {}, lambda: os.fdopen(writer, "wb"))
    assert tally.packets == 0


def test_a_reader_that_goes_away_is_noticed_without_packets(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with served(f"{tmp_path}/c"):

        def leave() -> None:
            os.read(reader, 1)
            os.close(reader)

        leaving = threading.Thread(target=leave)
        leaving.start()
        tally = capture(f"{tmp_path}/c", {}, lambda: os.fdopen(writer, "wb"))
        leaving.join()
    assert tally.packets in (0, 2)


def test_a_backend_that_says_nothing_more_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_module, "call", lambda *_: {"path": f"{tmp_path}/s"})
    monkeypatch.setattr(capture_module, "_PATIENCE_S", 0.01)
    over = threading.Event()

    def strike() -> None:
        while not over.wait(0.05):
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what a signal before and after the capture meets
    striker = threading.Thread(target=strike)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{tmp_path}/s")
            listener.listen(1)
            striker.start()
            assert capture("/c", {}, to(tmp_path / "f")).packets == 0
    finally:
        over.set()
        striker.join()
        signal.signal(signal.SIGTERM, before)


def test_a_refused_capture_leaves_the_file_alone(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"precious")
    with served(f"{tmp_path}/c"), pytest.raises(ConfigError, match="there is no port 'zz'"):
        capture(f"{tmp_path}/c", {"ports": ["zz"]}, to(tmp_path / "f"))
    assert (tmp_path / "f").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("answer", "words"),
    [({}, "no place of a capture"), ({"path": "/nonexistent/x"}, "capture socket /nonexistent/x: No such")],
)
def test_answers_that_lead_nowhere(
    monkeypatch: pytest.MonkeyPatch, answer: dict[str, str], words: str
) -> None:
    monkeypatch.setattr(capture_module, "call", lambda *_: answer)
    with pytest.raises(ControlError, match=words):
        capture("/c", {}, to(Path("/nonexistent/f")))


async def test_a_killed_backend_leaves_whole_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vbackend.capture.pcapng import Interface, head

    data = head("x", [Interface("a", "a")], 100, None)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{tmp_path}/s")
    listener.listen(1)
    monkeypatch.setattr(capture_module, "call", lambda *_: {"path": f"{tmp_path}/s"})

    def die() -> None:
        with listener, listener.accept()[0] as client:
            client.sendall(data + b"\6\0\0\0\x40\0\0\0half")

    killed = asyncio.create_task(asyncio.to_thread(die))
    await asyncio.sleep(0)
    tally = capture("/c", {}, to(tmp_path / "f"))
    await killed
    assert tally.packets == 0
    assert parse((tmp_path / "f").read_bytes()).application == "x"
