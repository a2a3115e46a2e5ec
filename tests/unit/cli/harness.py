"""Run command lines in this process, beside a control socket that a thread serves."""

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.unit.control.fakes import FakeBackend
from vbackend.cli.main import entry
from vbackend.control.server import ControlServer

__all__ = ["Outcome", "one_line", "served", "vbackend"]


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str


def vbackend(capsys: pytest.CaptureFixture[str], *arguments: str) -> Outcome:
    capsys.readouterr()
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    try:
        status = entry(arguments)
    finally:  # commands that log write to this test's stderr, which the next test does not have
        root.setLevel(before[0])
        root.handlers[:] = before[1]
    captured = capsys.readouterr()
    return Outcome(status, captured.out, captured.err)


def one_line(outcome: Outcome, status: int) -> str:
    """The complaint: the only line there is."""
    assert (outcome.status, outcome.out) == (status, "")
    assert outcome.err.startswith("vbackend: ")
    assert outcome.err.count("\n") == 1
    assert outcome.err.endswith("\n")
    assert outcome.err.isprintable() or outcome.err[:-1].isprintable()
    return outcome.err[len("vbackend: ") : -1]


@contextmanager
def served(path: str) -> Iterator[FakeBackend]:
    """A small backend behind a control socket at `path`."""
    backend = FakeBackend()
    ready, over = threading.Event(), threading.Event()

    async def serve() -> None:
        async with ControlServer(path, version="1.2.3") as server:
            await server.serve(backend, lambda: None)
            ready.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(20), "the control socket was not served"
        yield backend
    finally:
        over.set()
        thread.join()
