"""`vbackend show` and `vbackend doctor` for humans: snapshots in, rich renderables out.

Pure, but for `terminal`, which looks at stdout. Rule: everything fits 80 columns and reads without colour.
"""

import os
import sys
from collections.abc import Iterable, Mapping
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from vbackend.ports.rates import short
from vbackend.snapshot import (
    BackendSnapshot,
    ImpairmentSnapshot,
    LaneCounters,
    PortSnapshot,
    RingSnapshot,
    SegmentSnapshot,
    UnitSnapshot,
    VhostSnapshot,
)

__all__ = ["Finding", "backend_view", "duration", "findings_view", "size", "table", "terminal"]

_PIPE_WIDTH = 100
_STATE_STYLE = {
    "connected": "green",
    "listening": "cyan",
    "dialling": "yellow",
    "down": "dim",
    "failed": "red",
}


def terminal() -> Console:
    """A console on stdout; into a pipe: no colour, and a fixed width unless $COLUMNS says another."""
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=_PIPE_WIDTH if piped else None, highlight=False, emoji=False)


def backend_view(snapshot: BackendSnapshot, *, now: float, reasons: Mapping[str, str]) -> RenderableType:
    """The whole picture. `now`: seconds since the epoch; `reasons`: a line for each reason of a drop."""
    ports = _families(snapshot.ports)
    parts: list[RenderableType] = [
        _headline(snapshot, now),
        _ports(ports, now),
        _traffic(ports),
    ]
    impaired = [(port, port.impairment) for port in ports if port.impairment is not None]
    if impaired:
        parts.append(_impairments(impaired))
    units = [(port, port.unit) for port in ports if port.unit is not None]
    if units:
        parts += [_units(units), _unit_counters(units)]
    vhosts = [(port, port.vhost) for port in ports if port.vhost is not None]
    if vhosts:
        parts += [_vhosts(vhosts), _rings(vhosts)]
    drops = list(_drop_rows(ports, reasons))
    if drops:
        parts.append(_drops(drops))
    parts += [_addresses(segment) for segment in snapshot.segments if segment.kind == "switch"]
    return Group(*(piece for part in parts for piece in (part, "")))


class Finding(Protocol):
    """One thing a host can do or lacks, as `vbackend.host.probe` finds it."""

    @property
    def name(self) -> str: ...
    @property
    def ok(self) -> bool: ...
    @property
    def found(self) -> str: ...
    @property
    def remedy(self) -> str: ...


def findings_view(findings: Iterable[Finding]) -> RenderableType:
    """`doctor`'s table: what was looked for, what was found, and the remedy where it lacks."""
    found = table("", "", "what", "found", "remedy")
    for finding in findings:
        mark = Text("ok", "green") if finding.ok else Text("no", "bold red")
        found.add_row(
            mark, Text(finding.name), Text(finding.found), Text("" if finding.ok else finding.remedy)
        )
    return found


def table(title: str, *columns: str, right: Iterable[str] = ()) -> Table:
    """A table without lines; names and places may break anywhere, numbers nowhere."""
    found = Table(
        title=title, title_justify="left", title_style="bold", box=None, header_style="dim", pad_edge=False
    )
    for column in columns:
        number = column in right
        found.add_column(column, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return found


def size(count: int) -> str:
    """Bytes with three digits: 999 B, 1.87 GB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5:
            return f"{count} B" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.0f} PB"


def duration(seconds: float) -> str:
    """Time with two units at most: 0.4 s, 1 min 10 s, 3 d 4 h."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    for big, small, length, part in (("d", "h", 86_400, 3_600), ("h", "min", 3_600, 60), ("min", "s", 60, 1)):
        if whole >= length:
            return f"{whole // length} {big} {whole % length // part} {small}"
    return f"{whole} s"


def _headline(snapshot: BackendSnapshot, now: float) -> Text:
    kinds = " and ".join(segment.kind for segment in snapshot.segments)
    workers = f"{snapshot.workers} worker{'s' if snapshot.workers > 1 else ''}"
    up = duration(now - snapshot.started)
    rest = f"  pid {snapshot.pid}, up {up}, {workers}, vbackend {snapshot.version}"
    return Text.assemble((f"{kinds} {snapshot.name}", "bold"), rest)


def _ports(ports: Iterable[PortSnapshot], now: float) -> Table:
    found = table("PORTS", "port", "state", "where", "peer")
    for port in ports:
        state = Text(port.state, _STATE_STYLE[port.state])
        found.add_row(Text(port.name), state, Text(port.where), Text(_peer(port, now)))
    return found


def _families(ports: Iterable[PortSnapshot]) -> tuple[PortSnapshot, ...]:
    """In the order they came, but the guests of a `multi` port directly below it."""
    first: dict[str, int] = {}
    for port in ports:
        first.setdefault(port.parent or port.name, len(first))
    return tuple(sorted(ports, key=lambda port: (first[port.parent or port.name], port.parent is not None)))


def _peer(port: PortSnapshot, now: float) -> str:
    """Who is there, or why nobody is, and what else is special about the port."""
    said = []
    if port.session is not None:
        said.append(f"{port.session.peer}, for {duration(now - port.session.since)}")
    elif port.detail:
        said.append(port.detail)
    if port.last_end:
        said.append(f"session {port.sessions - (port.session is not None)} ended: {port.last_end}")
    if port.refused:
        said.append(f"{port.refused} turned away")
    if port.mac is not None:
        said.append(f"only from {port.mac}")
    if port.isolated:
        said.append("isolated")
    if port.rate is not None and port.burst is not None:
        said.append(f"at most {short(port.rate)}bit/s, burst {short(port.burst)}B")
    return "; ".join(said) or "-"


def _traffic(ports: tuple[PortSnapshot, ...]) -> Table:
    numbers = ("rx frames", "rx bytes", "tx frames", "tx bytes", "queue", "dropped")
    found = table("TRAFFIC  rx came from the peer, tx went to it", "port", *numbers, right=numbers)
    for port in ports:
        found.add_row(
            Text(port.name),
            *_counts(port.rx, port.tx),
            f"{port.tx.queued - _on_the_way(port)}/{port.queue_frames}",
            _dropped([port]),
        )
    if len(ports) > 1:
        found.add_row(
            "total",
            *_counts(_sum(port.rx for port in ports), _sum(port.tx for port in ports)),
            str(sum(port.tx.queued - _on_the_way(port) for port in ports)),
            _dropped(ports),
            style="bold",
        )
    return found


def _on_the_way(port: PortSnapshot) -> int:
    """Queued frames that are in no queue. The two counts are not of the very same moment."""
    return 0 if port.impairment is None else min(port.tx.queued, port.impairment.held_frames)


def _counts(rx: LaneCounters, tx: LaneCounters) -> tuple[str, str, str, str]:
    return f"{rx.frames_out:,}", size(rx.bytes_out), f"{tx.frames_out:,}", size(tx.bytes_out)


def _sum(lanes: Iterable[LaneCounters]) -> LaneCounters:
    pairs = [(lane.frames_out, lane.bytes_out) for lane in lanes]
    return LaneCounters(
        frames_out=sum(frames for frames, _ in pairs), bytes_out=sum(size for _, size in pairs)
    )


def _dropped(ports: Iterable[PortSnapshot]) -> Text:
    count = sum(port.rx.dropped + port.tx.dropped for port in ports)
    return Text(f"{count:,}", "yellow" if count else "")


def _impairments(impaired: Iterable[tuple[PortSnapshot, ImpairmentSnapshot]]) -> Table:
    numbers = ("lost", "twice", "corrupt", "delayed", "reordered", "on the way")
    found = table("IMPAIRMENTS  of what goes to the peer", "port", "settings", *numbers, right=numbers)
    for port, one in impaired:
        counts = (one.lost, one.duplicated, one.corrupted, one.delayed, one.reordered, one.held_frames)
        settings = " ".join(f"{key}={value}" for key, value in one.settings.items())
        found.add_row(Text(port.name), Text(settings), *(f"{count:,}" for count in counts))
    return found


def _units(units: Iterable[tuple[PortSnapshot, UnitSnapshot]]) -> Table:
    found = table(
        "TUN UNITS", "port", "unit", "flags", "addresses", "mtu", "header", "queue", right=("mtu", "queue")
    )
    for port, unit in units:
        found.add_row(
            Text(port.name),
            Text(unit.name),
            Text(" ".join((*unit.flags, *unit.if_flags))),
            Text("\n".join(unit.addresses)),
            str(unit.mtu),
            Text(unit.header if unit.header != "sockaddr" else f"sockaddr ({unit.family})"),
            f"{unit.queue_len}/{unit.queue_limit}",
        )
    return found


def _unit_counters(units: Iterable[tuple[PortSnapshot, UnitSnapshot]]) -> Table:
    names = ("ipackets", "ibytes", "opackets", "obytes", "ierrors", "oerrors", "collisions", "drops")
    found = table("", "port", *names, right=names)
    for port, unit in units:
        found.add_row(Text(port.name), *(f"{unit.counters[name]:,}" for name in names))
    return found


def _vhosts(vhosts: Iterable[tuple[PortSnapshot, VhostSnapshot]]) -> Table:
    found = table("VHOST-USER", "port", "memory", "mtu", "features", "protocol features", right=("mtu",))
    for port, vhost in vhosts:
        found.add_row(
            Text(port.name),
            Text(size(vhost.memory)),
            "-" if vhost.mtu is None else str(vhost.mtu),
            Text(" ".join(vhost.features)),
            Text(" ".join(vhost.protocol_features)),
        )
    return found


def _rings(vhosts: Iterable[tuple[PortSnapshot, VhostSnapshot]]) -> Table:
    numbers = ("ring", "size", "kicks", "calls", "frames")
    found = table("", "port", "ring", "way", "size", "kicks", "calls", "frames", "state", right=numbers)
    for port, vhost in vhosts:
        for ring in vhost.rings:
            found.add_row(
                Text(port.name),
                str(ring.index),
                "from guest" if ring.index % 2 else "to guest",
                str(ring.size),
                f"{ring.kicks:,}",
                f"{ring.calls:,}",
                f"{ring.frames:,}",
                _ring_state(ring),
            )
    return found


def _ring_state(ring: RingSnapshot) -> Text:
    if ring.running:
        return Text("runs", "green") if ring.enabled else Text("disabled", "dim")
    return Text(f"stopped: {ring.problem}", "red") if ring.problem else Text("stopped", "dim")


def _drop_rows(
    ports: Iterable[PortSnapshot], reasons: Mapping[str, str]
) -> Iterable[tuple[str, str, str, str, str]]:
    for port in ports:
        for lane, counters in (("rx", port.rx), ("tx", port.tx)):
            for reason, count in sorted(counters.drops.items(), key=lambda item: -item[1]):
                yield port.name, lane, f"{count:,}", reason, reasons.get(reason, "")


def _drops(rows: Iterable[tuple[str, str, str, str, str]]) -> Table:
    found = table("DROPS", "port", "lane", "frames", "reason", "meaning", right=("frames",))
    for row in rows:
        found.add_row(*(Text(cell) for cell in row))
    return found


def _addresses(segment: SegmentSnapshot) -> RenderableType:
    if not segment.fdb:
        return Text.assemble(("LEARNED ADDRESSES", "bold"), "  none yet")
    found = table("LEARNED ADDRESSES", "address", "port", "last seen", right=("last seen",))
    for entry in segment.fdb:
        found.add_row(entry.mac, Text(entry.port), f"{duration(entry.age)} ago")
    return found
