"""Pings and throughput between places that can run a command: guests and the host's namespace.

A place is anything with a name, addresses and `sh`. What ping and iperf3 print is read by pure functions, so
that they can be tested on recorded output of busybox and iputils.
"""

import json
import re
from dataclasses import dataclass
from typing import Protocol

__all__ = ["MeasureError", "Ping", "Place", "Throughput", "parse_iperf", "parse_ping", "ping", "throughput"]


class MeasureError(Exception):
    """A measurement did not work; the text says which, and what was printed instead."""


class Place(Protocol):
    """Somewhere a shell command can run."""

    @property
    def name(self) -> str: ...
    @property
    def addresses(self) -> tuple[str, str]:
        """Its IPv4 and its IPv6 address on the switch."""

    def sh(self, command: str, *, timeout: float) -> tuple[int, str]:
        """Exit status, and stdout and stderr together."""


@dataclass(frozen=True, slots=True)
class Ping:
    sent: int
    received: int
    average_ms: float | None  # None: nothing came back


@dataclass(frozen=True, slots=True)
class Throughput:
    megabits: float  # per second, counted at the receiver
    retransmits: int


def ping(source: Place, target: Place, *, version: int, count: int = 5) -> Ping:
    """Send `count` echo requests, five a second."""
    address = target.addresses[0 if version == 4 else 1]
    # The exit status says only whether any came back; the counts say it all.
    _, text = source.sh(f"ping -{version} -c {count} -i 0.2 -W 2 {address}", timeout=30)
    return parse_ping(text)


def throughput(source: Place, target: Place, *, seconds: int = 3) -> Throughput:
    """One TCP stream over IPv4 with a server that serves one client and ends."""
    status, text = target.sh("iperf3 --server --one-off --daemon --pidfile /tmp/iperf3.pid", timeout=10)
    if status != 0:
        raise MeasureError(f"iperf3 server on {target.name} did not start: {text.strip()}")
    command = f"iperf3 --client {target.addresses[0]} --time {seconds} --json --connect-timeout 5000"
    _, text = source.sh(command, timeout=seconds + 30)
    return parse_iperf(text)


def parse_ping(text: str) -> Ping:
    """Read what iputils' or busybox' ping prints. MeasureError when it is neither."""
    counts = re.search(r"(\d+) packets transmitted, (\d+) (?:packets )?received", text)
    if counts is None:
        raise MeasureError(f"ping printed no statistics: {text.strip() or 'nothing'}")
    times = re.search(r"min/avg/max(?:/mdev)? = [\d.]+/([\d.]+)/", text)
    return Ping(int(counts[1]), int(counts[2]), float(times[1]) if times else None)


def parse_iperf(text: str) -> Throughput:
    """Read the client's JSON report of a TCP test. MeasureError says what iperf3 complained about."""
    try:
        report = json.loads(text)
        if "error" in report:
            raise MeasureError(f"iperf3: {report['error']}")
        end = report["end"]
        megabits = end["sum_received"]["bits_per_second"] / 1e6
        return Throughput(megabits, end["sum_sent"].get("retransmits", 0))
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise MeasureError(f"iperf3 printed no report: {text.strip()[-500:] or 'nothing'}") from error
