"""The signals that end a program in order."""

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["ending_signals", "signals_end"]

log = logging.getLogger(__name__)

_END_S: Final = 2.0  # what an end in order may take


def ending_signals() -> tuple[signal.Signals, ...]:
    """Those that ask a foreground process to end. SIGHUP, the end of its terminal, is none under nohup."""
    hang_up = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    return signal.SIGINT, signal.SIGTERM, *hang_up


@contextmanager
def signals_end(
    on_first: Callable[[], None], *, clock: Callable[[], float] = time.monotonic
) -> Iterator[None]:
    """Call `on_first` on the first of `ending_signals`.

    Those of the next two seconds, which the end may take, say nothing new: timeout(1) sends each signal twice.
    The first one after that cancels the task, the next one kills.
    """
    loop, task, numbers = asyncio.get_running_loop(), asyncio.current_task(), ending_signals()
    assert task is not None, "runs in a task"
    patient_until: float | None = None

    def caught(number: signal.Signals) -> None:
        nonlocal patient_until
        now = clock()
        if patient_until is None:
            patient_until = now + _END_S
            log.info("got %s", number.name)
            on_first()
            return
        if now < patient_until:
            return
        log.warning("got %s again: not waiting any longer", number.name)
        for each in numbers:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)
        task.cancel()

    for each in numbers:
        loop.add_signal_handler(each, caught, each)
    try:
        yield
    finally:
        for each in numbers:
            loop.remove_signal_handler(each)
