"""From samples to figures: medians, and ratios to a reference in the same round. Pure.

Rule: a ratio is formed inside a round, between runs that are seconds apart, and only then the median is taken; on
a shared machine the quotient of two medians would compare different minutes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from tests.bench import bulk, tunfile
from tests.bench.scenario import TARGETS, Forwarder, Scenario

__all__ = ["Cell", "Report", "Sample", "Skip", "summarise"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One run: one forwarder, one scenario, one round."""

    scenario: Scenario
    forwarder: Forwarder
    round: int
    sent: int
    arrived: int
    foreign: int  # frames at the sink that were not the bench's
    cpu_ns: int  # of the forwarder, user and system, all threads
    wall_ns: int  # first send to last arrival

    @property
    def lost(self) -> int:
        return self.sent - self.arrived

    @property
    def cpu_per_frame(self) -> float:
        """ns; infinite when nothing arrived."""
        return self.cpu_ns / self.arrived if self.arrived else float("inf")

    @property
    def rate(self) -> float:
        """Frames per second; 0 when nothing arrived."""
        return self.arrived * 1e9 / self.wall_ns if self.arrived and self.wall_ns else 0.0


@dataclass(frozen=True, slots=True)
class Cell:
    """One forwarder in one scenario, over all rounds."""

    scenario: Scenario
    forwarder: Forwarder
    cpu_per_frame: float  # ns, median
    cpu_least: float
    cpu_most: float
    rate: float  # frames per second, median
    ratio: float | None  # of CPU time to the reference's; None without a reference in the run
    sent: int
    lost: int
    foreign: int

    @property
    def target(self) -> float | None:
        return TARGETS.get(self.scenario) if self.forwarder is Forwarder.VBACKEND else None

    @property
    def meets_target(self) -> bool | None:
        """None: there is no target, or no reference to hold it against."""
        if self.target is None or self.ratio is None:
            return None
        return self.ratio <= self.target


@dataclass(frozen=True, slots=True)
class Skip:
    """What was not measured, and what would make it possible."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a run found out."""

    machine: dict[str, str]
    rounds: int
    idle_ns: dict[Forwarder, int]  # CPU time over `idle_seconds` without traffic, both sides connected
    idle_seconds: float
    cells: tuple[Cell, ...]
    skips: tuple[Skip, ...]
    samples: tuple[Sample, ...]
    readings: tuple[tunfile.Reading, ...] = ()
    flows: tuple[bulk.Flow, ...] = ()

    def cell(self, scenario: Scenario, forwarder: Forwarder) -> Cell | None:
        return next((c for c in self.cells if c.scenario == scenario and c.forwarder is forwarder), None)

    def to_json(self) -> dict[str, Any]:
        """Plain data; times in ns, rates in frames per second."""
        return {
            "machine": self.machine,
            "rounds": self.rounds,
            "idle": {str(f): {"cpu_ns": ns, "seconds": self.idle_seconds} for f, ns in self.idle_ns.items()},
            "results": [
                {
                    "scenario": c.scenario.name,
                    "forwarder": str(c.forwarder),
                    "cpu_ns_per_frame": round(c.cpu_per_frame, 1),
                    "cpu_ns_per_frame_range": [round(c.cpu_least, 1), round(c.cpu_most, 1)],
                    "frames_per_second": round(c.rate),
                    "reference": str(c.scenario.path.reference),
                    "ratio": None if c.ratio is None else round(c.ratio, 3),
                    "target": c.target,
                    "meets_target": c.meets_target,
                    "sent": c.sent,
                    "lost": c.lost,
                    "foreign": c.foreign,
                }
                for c in self.cells
            ],
            "readings": tunfile.to_json(self.readings),
            "bulk": bulk.to_json(self.flows),
            "skipped": [{"what": s.what, "why": s.why} for s in self.skips],
            "samples": [
                {
                    "scenario": s.scenario.name,
                    "forwarder": str(s.forwarder),
                    "round": s.round,
                    "sent": s.sent,
                    "arrived": s.arrived,
                    "cpu_ns": s.cpu_ns,
                    "wall_ns": s.wall_ns,
                }
                for s in self.samples
            ],
        }


def summarise(samples: Sequence[Sample]) -> tuple[Cell, ...]:
    """One cell per scenario and forwarder, in the order the samples first name them.

    A round in which nothing arrived counts in `sent` and `lost` only; a pair without any other is left out.
    """
    groups: dict[tuple[Scenario, Forwarder], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.scenario, sample.forwarder), []).append(sample)
    references: dict[Scenario, list[Sample]] = {s.scenario: [] for s in samples}
    for s in samples:
        if s.forwarder is s.scenario.path.reference and s.arrived and s.cpu_ns:
            references[s.scenario].append(s)
    cells = []
    for (scenario, forwarder), group in groups.items():
        good = [s for s in group if s.arrived]
        if not good:
            continue
        costs = [s.cpu_per_frame for s in good]
        cells.append(
            Cell(
                scenario=scenario,
                forwarder=forwarder,
                cpu_per_frame=median(costs),
                cpu_least=min(costs),
                cpu_most=max(costs),
                rate=median(s.rate for s in good),
                ratio=_ratio(good, references[scenario]),
                sent=sum(s.sent for s in group),
                lost=sum(s.lost for s in group),
                foreign=sum(s.foreign for s in group),
            )
        )
    return tuple(cells)


def _ratio(samples: Sequence[Sample], references: Sequence[Sample]) -> float | None:
    """Of CPU time per frame, in one scenario; None when no round has both."""
    costs = {s.round: s.cpu_per_frame for s in references}
    ratios = [s.cpu_per_frame / costs[s.round] for s in samples if s.round in costs]
    return median(ratios) if ratios else None
