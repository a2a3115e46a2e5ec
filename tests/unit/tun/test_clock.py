"""The clock calls `start` of each unit until nothing is held back, and its thread ends then."""

import threading
from typing import cast

from vbackend.dataplane import NativeUnit
from vbackend.tun.clock import Clock

DEADLINE_S = 20


class Held:
    """A unit that says its delays, one per call."""

    def __init__(self, *delays_ms: int | None) -> None:
        self.delays = list(delays_ms)
        self.thread: threading.Thread | None = None
        self.started = threading.Event()
        self.over = threading.Event()

    def start(self) -> int | None:
        self.thread = threading.current_thread()
        self.started.set()
        delay = self.delays.pop(0)
        if not self.delays:
            self.over.set()
        return delay

    @property
    def native(self) -> NativeUnit:
        return cast(NativeUnit, self)


def ended(unit: Held) -> bool:
    assert unit.thread is not None
    unit.thread.join(DEADLINE_S)
    return not unit.thread.is_alive()


def test_it_asks_until_nothing_is_held() -> None:
    clock, unit = Clock(), Held(0, 1, None)
    clock.poke(unit.native)
    assert unit.over.wait(DEADLINE_S)
    assert ended(unit)
    clock.stop()


def test_a_unit_that_comes_later_does_not_wait_for_the_first() -> None:
    clock, slow, quick = Clock(), Held(*[3_600_000] * 9), Held(0, None)
    clock.poke(slow.native)
    assert slow.started.wait(DEADLINE_S)
    clock.poke(slow.native)
    clock.poke(quick.native)
    assert quick.over.wait(DEADLINE_S)
    assert quick.thread is slow.thread
    clock.stop()
    assert ended(slow)


def test_it_can_be_stopped_at_any_time_and_poked_again() -> None:
    clock = Clock()
    clock.stop()
    for _ in range(3):
        unit = Held(*[3_600_000] * 9)
        clock.poke(unit.native)
        assert unit.started.wait(DEADLINE_S)
        clock.stop()
        assert ended(unit)
