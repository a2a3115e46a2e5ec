"""The report for people: a table per path, of reading calls and of bulk TCP, then idle CPU time and what was left out.

Pure.
"""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tests.bench import bulk, tunfile
from tests.bench.figures import Cell, Report
from tests.bench.scenario import FORWARDERS, SCENARIOS, Forwarder, Path, Scenario

__all__ = ["render"]

TITLES = {
    Forwarder.FLOOR: "floor",
    Forwarder.VBACKEND: "vbackend",
    Forwarder.QEMU: "QEMU hub",
    Forwarder.VDE: "vde_switch",
    Forwarder.DPDK: "DPDK testpmd",
}


def render(report: Report) -> RenderableType:
    """CPU µs per frame, its ratio to the reference's, and thousands of frames per second, per forwarder."""
    seen = {cell.forwarder for cell in report.cells}
    forwarders = [f for f in FORWARDERS if f in seen]
    parts: list[RenderableType] = []
    for path in Path:
        scenarios = [s for s in SCENARIOS if s.path is path and any(c.scenario == s for c in report.cells)]
        if scenarios:
            parts.append(_table(report, path, scenarios, forwarders))
    if report.readings:
        parts.append(tunfile.table(report.readings))
    if report.flows:
        parts.append(bulk.table(report.flows))
    parts.append(_legend(report))
    return Group(*parts)


def _table(report: Report, path: Path, scenarios: list[Scenario], forwarders: list[Forwarder]) -> Table:
    title = path.replace("-", " → ").replace(" → packed", ", packed rings").replace(" → tcp", ", bulk TCP")
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("frame")
    for forwarder in forwarders:
        table.add_column(f"{TITLES[forwarder]}\nµs/frame ratio  kf/s", justify="right")
    table.add_column("target", justify="right")
    for scenario in scenarios:
        row = [f"{scenario.size} B, b{scenario.burst}" + (", calls" if scenario.mode == "event" else "")]
        row += [_figures(report.cell(scenario, forwarder)) for forwarder in forwarders]
        table.add_row(*row, _target(report.cell(scenario, Forwarder.VBACKEND)))
    return table


def _figures(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    ratio = "-" if cell.ratio is None else f"{cell.ratio:.2f}"
    lost = f"\n[red]{cell.lost} of {cell.sent} lost[/]" if cell.lost else ""
    return f"{cell.cpu_per_frame / 1000:.3f} {ratio:>6} {cell.rate / 1000:>6.0f}{lost}"


def _target(cell: Cell | None) -> str:
    if cell is None or cell.target is None:
        return ""
    verdict = {True: "[green]met[/]", False: "[red]missed[/]", None: "no reference"}[cell.meets_target]
    return f"≤ {cell.target:.2f} {verdict}"


def _legend(report: Report) -> Text:
    lines = [f"Medians of {report.rounds} interleaved rounds."]
    if report.cells:
        lines.append(
            "µs/frame: CPU time of the forwarding process per frame that arrived; "
            "kf/s: thousands of frames a second."
        )
    references = {cell.scenario.path.reference for cell in report.cells}
    if Forwarder.FLOOR in references:
        lines.append("ratio: to the floor's, median of the rounds' ratios; bN: N frames a system call.")
    if Forwarder.DPDK in references:
        lines.append(
            "ratio: to DPDK's, median of the rounds' ratios; bN: N frames made available at a time; "
            "calls: the guests sleep until called, else they poll."
        )
    if report.readings:
        lines.append("ns/packet: CPU time of the reading thread alone; kp/s: what that makes on one core.")
    if report.flows:
        lines.append("CPU s/GB: of all CPUs, per 10^9 bytes of payload.")
    if report.idle_ns:
        idle = ", ".join(f"{TITLES[f]} {ns / 1000:.0f} µs" for f, ns in report.idle_ns.items())
        lines.append(f"CPU time in {report.idle_seconds:g} s without traffic: {idle}.")
    lines += [f"Not measured: {skip.what}: {skip.why}" for skip in report.skips]
    lines.append("; ".join(f"{key} {value}" for key, value in report.machine.items()))
    return Text("\n".join(lines))
