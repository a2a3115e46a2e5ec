"""What the demo shows: a line for each step while it works, and tables at the end."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table

from tests.support.guest import PingResult
from tools.demo.measure import RoundTrips, Stream
from vbackend.snapshot import BackendSnapshot, LaneCounters

__all__ = ["ports_table", "round_trips_table", "step", "throughput_table"]


@contextmanager
def step(console: Console, text: str) -> Iterator[Callable[[str], None]]:
    """Show what is being done, then how long it took; a failed step is marked and raised on.

    Gives a function that tells what part of it is being done.
    """
    started = time.monotonic()
    log = not console.is_terminal
    if log:
        console.print(f"  {text} ... ", end="")
    try:
        with console.status(f"{text} ...") as status:
            yield lambda part: status.update(f"{text}: {part} ...")
    except BaseException:
        console.print("failed" if log else f"  [red]✗[/] {text}")
        raise
    took = f"({time.monotonic() - started:.1f} s)"
    console.print(f"done {took}" if log else f"  [green]✓[/] {text} [dim]{took}[/]")


def round_trips_table(results: Sequence[RoundTrips]) -> Table:
    table = Table("from", "to", title="Round trips", title_justify="left")
    for title in ("IPv4 answered", "average", "IPv6 answered", "average"):
        table.add_column(title, justify="right")
    for row in results:
        cells = [cell for version in (4, 6) for cell in _ping_cells(row.by_version[version])]
        table.add_row(row.source, row.target, *cells)
    return table


def throughput_table(results: Sequence[Stream]) -> Table:
    table = Table("from", "to", title="TCP throughput (iperf3)", title_justify="left")
    table.add_column("Mbit/s", justify="right")
    table.add_column("retransmits", justify="right")
    for row in results:
        table.add_row(row.source, row.target, f"{row.megabits:,.0f}", str(row.retransmits))
    return table


def ports_table(snapshot: BackendSnapshot) -> Table:
    """Frames per port, as vbackend counted them: rx came from the guest or the host, tx went to it."""
    table = Table("port", "connected to", title="Frames through vbackend", title_justify="left")
    for title in ("rx", "tx", "dropped"):
        table.add_column(title, justify="right")
    table.add_column("dropped because")
    for port in snapshot.ports:
        peer = port.session.peer if port.session else f"({port.state})"
        drops = port.rx.dropped + port.tx.dropped
        reasons = ", ".join([*_reasons("rx", port.rx), *_reasons("tx", port.tx)])
        table.add_row(
            port.name, peer, f"{port.rx.frames_out:,}", f"{port.tx.frames_out:,}", f"{drops:,}", reasons
        )
    return table


def _reasons(lane: str, counters: LaneCounters) -> list[str]:
    return [f"{lane} {reason} {count:,}" for reason, count in sorted(counters.drops.items())]


def _ping_cells(ping: PingResult) -> tuple[str, str]:
    color = "green" if ping.received == ping.sent else "yellow" if ping.received else "red"
    average = "-" if ping.average_ms is None else f"{ping.average_ms:.2f} ms"
    return f"[{color}]{ping.received}/{ping.sent}[/]", average
