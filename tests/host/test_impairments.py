"""Impairments between kernels: round trips, TCP through a delay, and a bad line changed while it is used.

Throughput is never the machine's: a fixed window is one window in a round trip, a rate is a rate. What is measured is
the best stretch of some round trips, since others may want the machine too.
"""

import re
import select
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.support.netns import Namespace, namespace
from tests.support.run import Run, vbackend_run
from tests.support.stacks import ping, socket_in, transfer
from vbackend.control.client import call

pytestmark = pytest.mark.root

A, B = "10.0.0.1", "10.0.0.2"
WINDOW: Final = 64 * 1024  # bytes the receiver buffers
STRETCH: Final = 10  # round trips
FLOWS: Final = 5  # on a machine that is busy for seconds

# struct tcp_info (linux/tcp.h): offsets of values in microseconds and bytes.
TCPI_MIN_RTT: Final = 148
TCPI_SND_WND: Final = 228


@dataclass(frozen=True, slots=True)
class Ends:
    """Two namespaces that only vbackend joins."""

    a: Namespace
    b: Namespace

    def taps(self, more: str = "") -> tuple[str, str]:
        """A tap in each, with `more` keys on both."""
        return (
            f"tap:ta,netns={self.a.name},addr={A}/24{more}",
            f"tap:tb,netns={self.b.name},addr={B}/24{more}",
        )


@pytest.fixture
def ends() -> Iterator[Ends]:
    with namespace() as a, namespace() as b:
        yield Ends(a, b)


@dataclass(frozen=True, slots=True)
class Flow:
    """One TCP connection from a to b that never had nothing to send."""

    arrived: list[tuple[float, int]]  # seconds, bytes until then
    window: int  # the largest that the receiver told, bytes
    min_rtt: float  # seconds

    def best(self, stretch: float) -> float:
        """Bytes a second over the best stretch of so many seconds."""
        best, first = 0.0, 0
        for at, count in self.arrived:
            while at - self.arrived[first][0] > stretch:
                first += 1
            begin, before = self.arrived[max(first - 1, 0)]
            if at - begin >= stretch:
                best = max(best, (count - before) / (at - begin))
        return best


def flow(ends: Ends, *, seconds: float, buffer: int | None = None) -> Flow:
    """Send for so long; `buffer`: the receiver's, None: as the kernel likes."""
    with (
        socket_in(ends.b, socket.AF_INET, socket.SOCK_STREAM) as listener,
        socket_in(ends.a, socket.AF_INET, socket.SOCK_STREAM) as source,
    ):
        if buffer is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        listener.bind((B, 0))
        listener.listen(1)
        source.connect(listener.getsockname())
        sink, _ = listener.accept()
        with sink:
            source.setblocking(False)
            arrived, window, data = [(time.monotonic(), 0)], 0, bytes(1 << 16)
            end = arrived[0][0] + seconds
            while arrived[-1][0] < end:
                readable, writable, _ = select.select([sink], [source], [], 20)
                assert readable or writable, "nothing moves"
                if writable:
                    source.send(data)
                if readable:
                    count = arrived[-1][1] + len(sink.recv(1 << 20))
                    arrived.append((time.monotonic(), count))
                info = source.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                window = max(window, struct.unpack_from("=I", info, TCPI_SND_WND)[0])
            (min_rtt,) = struct.unpack_from("=I", info, TCPI_MIN_RTT)
            return Flow(arrived, window, min_rtt / 1e6)


def best_ping(ends: Ends) -> float:
    """The shortest round trip of some, in ms."""
    said = ends.a.run("ping", "-n", "-c", "5", "-i", "0.02", "-w", "20", B)
    return min(float(found) for found in re.findall(r"time=([\d.]+) ms", said))


def change(run: Run, port: str, **words: str) -> None:
    call(str(run.control), "port-set", {"name": port, **words})


@pytest.mark.parametrize(("delay_ms", "seconds"), [(1, 4.0), (100, 8.0)])
def test_a_delay_costs_tcp_no_more_than_the_window_says(
    ends: Ends, tmp_path: Path, delay_ms: int, seconds: float
) -> None:
    least = 2 * delay_ms / 1000
    with vbackend_run(tmp_path, "--cable", *ends.taps(f",delay={delay_ms}ms")) as run:
        ping(ends.a, B, size=100)
        shares = list[float]()
        while max(shares, default=0) < 0.9 and len(shares) < FLOWS:
            found = flow(ends, seconds=seconds, buffer=WINDOW)
            assert least <= found.min_rtt <= least + 0.005, "nothing is early, and the best is hardly late"
            shares.append(found.best(STRETCH * least) * found.min_rtt / found.window)
        assert max(shares) >= 0.9, shares
        assert {port.tx.drops.get("line-full", 0) for port in run.snapshot().ports} == {0}


def test_the_rate_behind_a_delay_is_the_bottleneck(ends: Ends, tmp_path: Path) -> None:
    with vbackend_run(tmp_path, "--cable", *ends.taps(",delay=10ms,rate=8M,queue=100")) as run:
        ping(ends.a, B, size=100)
        found = flow(ends, seconds=5.0)
        payload = 1_000_000 * 1448 / 1514
        assert 0.9 * payload <= found.best(1.0) <= 1.05 * payload
        assert run.port("tb").queue_frames == 100


def test_tcp_survives_a_bad_line_unharmed(ends: Ends, tmp_path: Path) -> None:
    bad = ",delay=2ms,jitter=1ms,loss=1%,duplicate=2%,corrupt=1%,reorder=2%,seed=7"
    with vbackend_run(tmp_path, *ends.taps(bad)) as run:
        ping(ends.a, B, size=100)
        transfer(ends.a, ends.b, B, bytes(range(256)) * 8192)
        found = run.port("tb").impairment
        assert found is not None
        assert min(found.lost, found.duplicated, found.corrupted, found.reordered, found.delayed) > 0


def test_a_line_is_changed_while_it_is_used(ends: Ends, tmp_path: Path) -> None:
    with vbackend_run(tmp_path, "--cable", *ends.taps()) as run:
        ping(ends.a, B, size=100)
        change(run, "tb", delay="60ms")
        assert best_ping(ends) >= 60
        change(run, "ta", delay="40ms", loss="0%")
        assert best_ping(ends) >= 100
        change(run, "tb", loss="100%")
        assert "0 received" in ends.a.run("ping", "-n", "-c", "3", "-i", "0.02", "-W", "1", B, check=False)
        lost = run.port("tb").tx.drops["loss"]
        assert lost >= 3
        change(run, "tb", impair="off")
        change(run, "ta", impair="off")
        assert best_ping(ends) < 40
        assert (run.port("tb").impairment, run.port("tb").tx.drops["loss"]) == (None, lost)
