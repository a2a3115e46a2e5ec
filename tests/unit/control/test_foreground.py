"""The foreground life: plans, signals, and a real backend between start and end."""

import asyncio
import logging
import os
import signal
from pathlib import Path

import pytest

from tests.unit.control.fakes import said
from vbackend.control.client import ControlClient
from vbackend.control.foreground import (
    Ending,
    RunPlan,
    checked_plan,
    log_to_stderr,
    run,
    run_to_end,
    running_backend,
)
from vbackend.errors import ConfigError, HostError
from vbackend.ports.parse import parse_port

DEADLINE = 30.0


def plan(home: Path, *, to_come: int = 0) -> RunPlan:
    specs = tuple(parse_port(f"stream:unix:{home}/{name},name={name}") for name in "ab")
    return RunPlan("lab", "switch", specs, str(home / "control"), to_come=to_come)


@pytest.mark.parametrize(
    ("segment", "ports", "to_come", "problem"),
    [
        ("switch", ["tap:a", "tap:b"], 0, None),
        ("switch", ["tap:a", "tap:b", "tap:c"], 0, None),
        ("switch", ["stream:unix:/a,multi"], 0, None),
        ("switch", [], 1, None),
        ("cable", ["tap:a", "tap:b"], 0, None),
        ("cable", ["tap:a"], 1, None),
        ("switch", ["tap:a"], 0, "1 given, nobody to talk to"),
        ("switch", [], 0, "0 given, nobody to talk to"),
        ("cable", ["tap:a"], 0, "exactly two ports, 1 given"),
        ("cable", ["tap:a", "tap:b"], 1, "exactly two ports, 3 given"),
        ("cable", ["tap:a", "stream:unix:/a,multi"], 0, "takes many guests"),
    ],
)
def test_plans(segment: str, ports: list[str], to_come: int, problem: str | None) -> None:
    specs = tuple(parse_port(port) for port in ports)
    made = RunPlan("x", "cable" if segment == "cable" else "switch", specs, None, to_come=to_come)
    if problem is None:
        assert checked_plan(made) is made
    else:
        with pytest.raises(ConfigError, match=problem):
            checked_plan(made)


def test_a_cut_short_end_is_an_error() -> None:
    async def life() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.Event().wait()

    with pytest.raises(HostError, match="second signal"):
        run_to_end(life())


async def test_backend_and_control_socket_live_together(tmp_path: Path) -> None:
    ending = Ending()
    async with running_backend(plan(tmp_path), ending), ControlClient(str(tmp_path / "control")) as client:
        status = await client.status()
        assert [port.name for port in status.ports] == ["a", "b"]
        await client.execute("quit")
        await asyncio.wait_for(ending.wanted.wait(), DEADLINE)
    assert ending.fault == ""
    assert list(tmp_path.iterdir()) == []


async def test_start_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("precious")
    with pytest.raises(ConfigError, match="no socket"):
        async with running_backend(plan(tmp_path), Ending()):
            pytest.fail("it started")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


async def test_end_wanted_while_starting(tmp_path: Path) -> None:
    ending = Ending()
    ending.request()
    async with running_backend(plan(tmp_path), ending):
        pass
    assert list(tmp_path.iterdir()) == []


async def test_fault_of_the_engine_ends_it(tmp_path: Path) -> None:
    ending = Ending()
    async with running_backend(plan(tmp_path), ending) as backend:
        backend.failure.set_result("a worker died")
        await asyncio.wait_for(ending.wanted.wait(), DEADLINE)
    assert ending.fault == "a worker died"


@pytest.mark.usefixtures("in_terminal")
async def test_run_until_a_signal(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb"):
        life = asyncio.create_task(run(plan(tmp_path), writer, {}))
        assert await said(reader) == b"READY\n"
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(life, DEADLINE)
    assert list(tmp_path.iterdir()) == []


def test_log_lines(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    try:
        log_to_stderr(logging.INFO)
        logging.getLogger("vbackend.x").info("hello %s", "there")
        logging.getLogger("vbackend.x").debug("not this")
        err = capsys.readouterr().err
    finally:
        root.setLevel(before[0])
        root.handlers[:] = before[1]
    assert err.endswith(" INFO hello there\n")
    assert err.count("\n") == 1
