"""Bulk TCP of real guests: from transfers to figures, and how they are shown. Pure; guests.py measures.

Rule: a ratio is formed inside a round, as in figures.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from rich.table import Table

__all__ = [
    "QEMU_PASST",
    "QEMU_TAP",
    "QEMU_VHOST",
    "UML_HOST",
    "UML_PAIR",
    "Flow",
    "Transfer",
    "summarise",
    "table",
    "to_json",
]

UML_PAIR: Final = "user-mode Linux → user-mode Linux"
UML_HOST: Final = "user-mode Linux ↔ host"
QEMU_VHOST: Final = "QEMU ↔ host, vhost-user"
QEMU_TAP: Final = "QEMU ↔ host, QEMU's own tap"
QEMU_PASST: Final = "QEMU ↔ host, passt"


@dataclass(frozen=True, slots=True)
class Transfer:
    """One run of iperf3."""

    link: str
    sends: bool  # the first guest, else it receives
    round: int
    received: int  # bytes of payload
    seconds: float
    backend_ns: int  # CPU time of the back-end; 0 for QEMU's own, which cannot be told from QEMU
    all_ns: int  # with QEMU's

    @property
    def rate(self) -> float:
        """Bits per second."""
        return 8 * self.received / self.seconds


@dataclass(frozen=True, slots=True)
class Flow:
    """One direction of a link over all rounds; medians."""

    link: str
    sends: bool
    rate: float  # bits per second
    backend_cost: float | None  # s of CPU time per 10^9 bytes; None: the back-end is a part of QEMU
    all_cost: float | None  # with QEMU's; None: there is no QEMU
    ratio: float | None  # of the rate to that with QEMU's own tap, same round

    @property
    def meets_target(self) -> bool | None:
        """Faster than QEMU's own tap; None: nothing to hold it against."""
        return None if self.ratio is None or self.link != QEMU_VHOST else self.ratio > 1


def summarise(transfers: Sequence[Transfer]) -> tuple[Flow, ...]:
    """One flow per link and direction, in the order of the transfers."""
    groups: dict[tuple[str, bool], list[Transfer]] = {}
    for transfer in transfers:
        groups.setdefault((transfer.link, transfer.sends), []).append(transfer)
    references = {(t.sends, t.round): t.rate for t in transfers if t.link == QEMU_TAP and t.received}
    flows = []
    for (link, sends), group in groups.items():
        good = [t for t in group if t.received]
        if not good:
            continue
        of_qemu = link in (QEMU_VHOST, QEMU_TAP, QEMU_PASST)
        ratios = [
            t.rate / references[sends, t.round] for t in good if of_qemu and (sends, t.round) in references
        ]
        flows.append(
            Flow(
                link,
                sends,
                median(t.rate for t in good),
                None if link == QEMU_TAP else median(t.backend_ns / t.received for t in good),
                median(t.all_ns / t.received for t in good) if of_qemu else None,
                median(ratios) if ratios else None,
            )
        )
    return tuple(flows)


def table(flows: Sequence[Flow]) -> Table:
    """For people."""
    shown = Table(title="bulk TCP of guests, iperf3", title_justify="left", title_style="bold")
    shown.add_column("link")
    for heading in ("guest", "Mbit/s", "CPU s/GB\nback-end", "CPU s/GB\nwith QEMU", "Mbit/s to\nQEMU's tap"):
        shown.add_column(heading, justify="right")
    for flow in flows:
        costs = ["-" if cost is None else f"{cost:.2f}" for cost in (flow.backend_cost, flow.all_cost)]
        verdict = {True: " [green]met[/]", False: " [red]missed[/]", None: ""}[flow.meets_target]
        ratio = "-" if flow.ratio is None else f"{flow.ratio:.2f}{verdict}"
        shown.add_row(
            flow.link, "sends" if flow.sends else "receives", f"{flow.rate / 1e6:.0f}", *costs, ratio
        )
    return shown


def to_json(flows: Sequence[Flow]) -> list[dict[str, Any]]:
    """Plain data; rates in bits per second, costs in s of CPU time per 10^9 bytes."""
    return [
        {
            "link": flow.link,
            "guest_sends": flow.sends,
            "bits_per_second": round(flow.rate),
            "backend_cpu_s_per_gb": None if flow.backend_cost is None else round(flow.backend_cost, 3),
            "cpu_s_per_gb_with_qemu": None if flow.all_cost is None else round(flow.all_cost, 3),
            "ratio_to_qemu_tap": None if flow.ratio is None else round(flow.ratio, 3),
            "meets_target": flow.meets_target,
        }
        for flow in flows
    ]
