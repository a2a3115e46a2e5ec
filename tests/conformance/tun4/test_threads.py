"""One reader, one writer, one destroyer: nothing hangs, no wake-up is lost, every packet is accounted for."""

import errno
import faulthandler
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Final

import pytest

from tests.conformance.tun4.rules import rule
from tests.conformance.tun4.units import LOCAL, Running, ipv4, open_unit, outcome
from vbackend.tun.driver import Interface, TunDriver
from vbackend.tun.file import TunFile

ROUNDS: Final = 10_000
LIVES: Final = 500
WATCHDOG_S: Final = 90


@pytest.fixture(autouse=True)
def _watchdog() -> Iterator[None]:
    """A hang is shown with the stacks of all threads, before anybody's patience ends."""
    faulthandler.dump_traceback_later(WATCHDOG_S)
    yield
    faulthandler.cancel_dump_traceback_later()


class Tally:
    """What one thread saw."""

    def __init__(self) -> None:
        self.done = 0
        self.refused: dict[int, int] = {}

    def count(self, code: int) -> None:
        if code:
            self.refused[code] = self.refused.get(code, 0) + 1
        else:
            self.done += 1


def reads(file: TunFile) -> Tally:
    """Read, waiting, until the file is closed."""
    tally = Tally()
    while (code := outcome(file.read)) != errno.EBADF:
        tally.count(code)
    return tally


@rule("R3", "T6", "Q2")
def test_no_wake_up_is_lost(driver: TunDriver) -> None:
    """A reader that always sleeps before the next packet comes: each one has to wake it."""
    unit, file = open_unit(driver, nonblocking=False, queue=1)
    reader = Running(lambda: [file.read() for _ in range(ROUNDS)])
    for number in range(ROUNDS):
        while outcome(unit.output, ipv4(number=number)):
            time.sleep(0)  # the others' turn
    assert reader.result() == [ipv4(number=number) for number in range(ROUNDS)]
    assert unit.queue_len == 0


@rule("D1", "R4", "Q2", "W1")
def test_reader_writer_and_destroyer(driver: TunDriver) -> None:
    """Counters are looked at at the end of each life of the interface, when they stand still."""
    unit, file = open_unit(driver, nonblocking=False, queue=8)
    outputs, writes = Tally(), Tally()
    over = threading.Event()
    totals = dict.fromkeys(("opackets", "purged", "ipackets"), 0)

    def write() -> None:
        number = 0
        while not over.is_set() or number < ROUNDS:
            number += 1
            outputs.count(outcome(unit.output, ipv4(number=number & 0xFFFF)))
            writes.count(outcome(file.write, ipv4()))
            while unit.input() is not None:
                pass
            time.sleep(0)  # the others' turn

    def add_up() -> None:
        for name, value in unit.counters().items():
            if name in totals:
                totals[name] += value

    def destroy() -> None:
        for _ in range(ROUNDS):
            driver.destroy(0)
            add_up()
            driver.create(0, queue=8)
            unit.set_address(LOCAL)
            time.sleep(0)
        over.set()

    reader, writer, destroyer = Running(lambda: reads(file)), Running(write), Running(destroy)
    writer.result()
    destroyer.result()
    file.close()
    read = reader.result()
    add_up()
    assert outputs.done == totals["opackets"] == read.done + totals["purged"]
    assert writes.done == totals["ipackets"]
    assert outputs.refused.keys() <= {errno.ENXIO, errno.EHOSTDOWN, errno.ENOBUFS}
    assert writes.refused.keys() <= {errno.ENXIO, errno.ENOBUFS}
    assert read.refused.keys() <= {errno.ENXIO, errno.EHOSTDOWN}
    assert read.refused


def _opened(driver: TunDriver) -> tuple[Interface, TunFile]:
    file = driver.open(0, nonblocking=False)
    unit = driver.unit(0)
    unit.set_address(LOCAL)
    return unit, file


@rule("X1", "D2")
def test_every_reader_of_every_life_is_woken(driver: TunDriver) -> None:
    """Close, or destroy and close, races with a read that begins or already sleeps."""
    for life in range(LIVES):
        unit, file = _opened(driver)
        reader = Running(partial(reads, file))
        if life % 2:
            unit.output(ipv4())
        if life % 3 == 0:
            driver.destroy(0)
        file.close()
        read = reader.result()
        assert read.done <= life % 2
        assert read.refused.keys() <= {errno.ENXIO}
