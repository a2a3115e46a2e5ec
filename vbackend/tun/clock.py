"""The clock of rate-limited units that no worker of the engine looks after (altq_subr.c tbr_timeout, Q1).

A reader that sleeps wakes itself; who polls, or waits for SIGIO, is told by this thread when packets that the rate held
back may leave. It exists only while there are such packets.
"""

import threading
from typing import Final

from vbackend.dataplane import NativeUnit

__all__ = ["Clock"]


class Clock:
    """Calls `start` (if_tun.c tunstart) of units when it is time."""

    def __init__(self) -> None:
        self._changed: Final = threading.Condition()
        self._held: list[NativeUnit] = []
        self._thread: threading.Thread | None = None

    def poke(self, unit: NativeUnit) -> None:
        """Packets of this unit are held back."""
        with self._changed:
            if unit not in self._held:
                self._held.append(unit)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="vbackend-tun-clock", daemon=True)
                self._thread.start()
            self._changed.notify()

    def stop(self) -> None:
        """Forget all units and end the thread."""
        with self._changed:
            self._held.clear()
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        with self._changed:
            while self._held:
                delays_ms = {id(unit): unit.start() for unit in self._held}
                self._held = [unit for unit in self._held if delays_ms[id(unit)] is not None]
                waits = [delay for delay in delays_ms.values() if delay is not None]
                if waits:
                    self._changed.wait(max(min(waits), 1) / 1000)
            self._thread = None
