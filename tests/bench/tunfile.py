"""How fast one Python thread reads packets: CPU time per packet of a reading call, the filling not counted.

What is read is an argument: `fill` puts packets into a queue, `read` takes some out and says how many; `readers` are
those of a TunFile. Rule: rounds of the calls are interleaved, and the median shown, as with forwarders (figures.py).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from statistics import median
from typing import Any, Final

from rich.table import Table

from tests.bench.process import BenchError

__all__ = ["DEPTH", "TARGETS", "Reader", "Reading", "measured", "readers", "table", "to_json"]

# The fewest 64-byte packets a second a call must read on one core.
TARGETS: Final = {"read_batch()": 1_000_000, "read()": 300_000}

DEPTH: Final = 256  # packets: what a unit's queue holds, and a read_batch() takes, unless told otherwise

_PACKET: Final = b"\x45" + bytes(63)  # a unit looks at the version only


@dataclass(frozen=True, slots=True)
class Reader:
    """One call under measurement."""

    name: str  # a key of TARGETS, if it has one
    fill: Callable[[int], None]  # puts that many packets into an empty queue
    read: Callable[[], int]  # takes packets out of it; how many


@dataclass(frozen=True, slots=True)
class Reading:
    """What one call costs, over all rounds."""

    name: str
    cpu_per_packet: float  # ns of the process, user and system, all threads; median
    cpu_least: float
    cpu_most: float

    @property
    def rate(self) -> float:
        """Packets a second if one core did nothing else; infinite when the clock saw no time pass."""
        return 1e9 / self.cpu_per_packet if self.cpu_per_packet else float("inf")

    @property
    def target(self) -> int | None:
        return TARGETS.get(self.name)

    @property
    def meets_target(self) -> bool | None:
        """None: there is no target."""
        return None if self.target is None else self.rate >= self.target


@contextmanager
def readers() -> Iterator[tuple[Reader, ...]]:
    """Both calls of a TunFile without link header, on a unit of their own that holds `DEPTH` packets."""
    from vbackend.tun.driver import AF_INET, TunDriver

    with TunDriver() as driver:
        interface = driver.create(0)
        interface.set_address(IPv4Address("192.0.2.1"))
        output = interface.native.output  # not Interface.output: filling is not what is measured
        file = driver.open(0, nonblocking=True)

        def fill(count: int) -> None:
            for _ in range(count):
                output(_PACKET, AF_INET)

        def read() -> int:
            file.read()
            return 1

        yield (
            Reader("read_batch()", fill, lambda: len(file.read_batch())),
            Reader("read()", fill, read),
        )


def measured(
    readers: Sequence[Reader],
    *,
    rounds: int,
    packets: int,
    depth: int,
    clock_ns: Callable[[], int] = time.process_time_ns,
) -> tuple[Reading, ...]:
    """Read `packets` per call and round, filling up to `depth` at a time; one more round first, not told.

    BenchError when a call finds fewer packets than were put in.
    """
    costs: dict[str, list[float]] = {reader.name: [] for reader in readers}
    for number in range(rounds + 1):
        for reader in readers:
            cost = _round(reader, packets, depth, clock_ns)
            if number:
                costs[reader.name].append(cost)
    return tuple(Reading(name, median(each), min(each), max(each)) for name, each in costs.items())


def _round(reader: Reader, packets: int, depth: int, clock_ns: Callable[[], int]) -> float:
    """CPU time per packet, ns."""
    spent = 0
    for done in range(0, packets, depth):
        left = min(depth, packets - done)
        reader.fill(left)
        read = reader.read
        start = clock_ns()
        while left > 0:
            count = read()
            if not count:
                raise BenchError(f"{reader.name}: {left} packets that were put in did not come out")
            left -= count
        spent += clock_ns() - start
    return spent / packets


def table(readings: Sequence[Reading]) -> Table:
    """For people: ns per packet, thousands of packets a second, and the verdict."""
    shown = Table(title="TunFile, 64 B packets", title_justify="left", title_style="bold")
    shown.add_column("call")
    for heading in ("ns/packet", "kp/s", "target"):
        shown.add_column(heading, justify="right")
    for reading in readings:
        shown.add_row(
            reading.name, f"{reading.cpu_per_packet:.0f}", f"{reading.rate / 1000:.0f}", _verdict(reading)
        )
    return shown


def _verdict(reading: Reading) -> str:
    if reading.target is None:
        return ""
    return f"≥ {reading.target // 1000} " + ("[green]met[/]" if reading.meets_target else "[red]missed[/]")


def to_json(readings: Sequence[Reading]) -> list[dict[str, Any]]:
    """Plain data; times in ns, rates in packets per second."""
    return [
        {
            "call": reading.name,
            "cpu_ns_per_packet": round(reading.cpu_per_packet, 1),
            "cpu_ns_per_packet_range": [round(reading.cpu_least, 1), round(reading.cpu_most, 1)],
            "packets_per_second": round(reading.rate),
            "target": reading.target,
            "meets_target": reading.meets_target,
        }
        for reading in readings
    ]
