"""Signals that ask for an end, and those that insist."""

import asyncio
import os
import signal

import pytest

from vbackend.control.signals import ending_signals, signals_end

DEADLINE = 30.0


@pytest.mark.usefixtures("in_terminal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_first_signal_asks_and_only_a_late_one_cancels(number: signal.Signals) -> None:
    times = iter((0.0, 0.0, 1.9, 2.1))  # timeout(1) sends each signal twice
    asked = 0
    caught = asyncio.Event()
    cancelled = False

    def ask() -> None:
        nonlocal asked
        asked += 1

    def clock() -> float:
        caught.set()
        return next(times)

    async def life() -> None:
        nonlocal cancelled
        with signals_end(ask, clock=clock):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled = True
                raise

    task = asyncio.create_task(life())
    await asyncio.sleep(0)
    for _ in range(3):
        caught.clear()
        os.kill(os.getpid(), number)
        await asyncio.wait_for(caught.wait(), DEADLINE)
        await asyncio.sleep(0)
        assert asked == 1
        assert not task.done()
    os.kill(os.getpid(), number)
    await asyncio.wait((task,), timeout=DEADLINE)
    assert cancelled
    assert signal.getsignal(number) != signal.SIG_IGN


@pytest.mark.usefixtures("in_terminal")
def test_nohup() -> None:
    assert signal.SIGHUP in ending_signals()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert ending_signals() == (signal.SIGINT, signal.SIGTERM)
