"""The arithmetic of the reading benchmark, on a queue and a clock of the test's own; the calls, on a real TunFile."""

import pytest
from rich.console import Console

from tests.bench.process import BenchError
from tests.bench.tunfile import DEPTH, TARGETS, Reader, Reading, measured, readers, table, to_json


class Queue:
    """Packets are a number; each call to `take` costs what it is told, each filling a second."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.length = 0
        self.filled: list[int] = []

    def fill(self, count: int) -> None:
        assert self.length == 0
        self.now_ns += 1_000_000_000
        self.length = count
        self.filled.append(count)

    def take(self, most: int, cost_ns: int) -> int:
        self.now_ns += cost_ns
        count = min(most, self.length)
        self.length -= count
        return count


def test_only_reading_is_counted() -> None:
    queue = Queue()
    readers = [
        Reader("read_batch()", queue.fill, lambda: queue.take(32, 3_200)),
        Reader("read()", queue.fill, lambda: queue.take(1, 5_000)),
    ]
    batch, single = measured(readers, rounds=3, packets=160, depth=64, clock_ns=lambda: queue.now_ns)
    assert queue.filled == [64, 64, 32] * 2 * 4  # two calls, three rounds and one to warm up
    assert (batch.name, batch.cpu_per_packet, batch.rate, batch.meets_target) == (
        *("read_batch()", 100.0),
        *(10_000_000, True),
    )
    assert (single.name, single.cpu_per_packet, single.rate, single.meets_target) == (
        *("read()", 5_000.0),
        *(200_000, False),
    )


def test_rounds_are_interleaved_and_the_median_told() -> None:
    queue, calls = Queue(), []
    costs = iter([999, 999, 100, 1, 300, 1, 200, 1])

    def reader(name: str) -> Reader:
        def take() -> int:
            calls.append(name)
            return queue.take(10, next(costs) * 10)

        return Reader(name, queue.fill, take)

    first, second = measured(
        [reader("a"), reader("b")], rounds=3, packets=10, depth=10, clock_ns=lambda: queue.now_ns
    )
    assert calls == ["a", "b"] * 4
    assert (first.cpu_per_packet, first.cpu_least, first.cpu_most) == (200, 100, 300)
    assert (second.cpu_per_packet, second.target, second.meets_target) == (1, None, None)


def test_packets_that_do_not_come_out_are_an_error() -> None:
    queue = Queue()
    with pytest.raises(BenchError, match=r"read\(\): 64 packets that were put in did not come out"):
        measured([Reader("read()", queue.fill, lambda: 0)], rounds=1, packets=64, depth=64)


@pytest.mark.parametrize(("cpu_per_packet", "verdict"), [(1_000.0, "≥ 1000 met"), (1_001.0, "≥ 1000 missed")])
def test_table_and_json(cpu_per_packet: float, verdict: str) -> None:
    readings = [Reading("read_batch()", cpu_per_packet, 900.0, 1_100.0), Reading("close()", 0.0, 0.0, 0.0)]
    console = Console(width=100, color_system=None)
    with console.capture() as capture:
        console.print(table(readings))
    assert verdict in capture.get()
    told = to_json(readings[:1])[0]
    assert (told["cpu_ns_per_packet"], told["target"]) == (cpu_per_packet, TARGETS["read_batch()"])
    assert told["meets_target"] is ("met" in verdict)


def test_targets_are_the_agreed_ones() -> None:
    assert TARGETS == {"read_batch()": 1_000_000, "read()": 300_000}


def test_a_tun_file_gives_back_what_its_unit_was_filled_with() -> None:
    with readers() as calls:
        assert {call.name for call in calls} == set(TARGETS)
        for call in calls:
            call.fill(DEPTH)
            left = DEPTH
            while left:
                left -= call.read()
        readings = measured(calls, rounds=1, packets=DEPTH + 1, depth=DEPTH)
    assert [reading.name for reading in readings] == [call.name for call in calls]
