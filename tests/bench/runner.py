"""The run: every forwarder of every path up at once, then interleaved rounds.

A forwarder without traffic costs nothing, so all may stay while one is measured; the idle measurement shows it. One
that spins is stopped except while it is measured.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path as FilePath

from tests.bench import forwarders, namespace
from tests.bench.figures import Sample, Skip
from tests.bench.forwarders import Place, Setup, started
from tests.bench.process import BenchError, Load, cpu_ns, pin, settled_cpu_ns
from tests.bench.scenario import Forwarder, Path, Scenario

__all__ = ["Plan", "Run", "Tools"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure and how often."""

    scenarios: tuple[Scenario, ...]
    forwarders: tuple[Forwarder, ...]
    rounds: int
    frames: int  # of a round with one frame a system call; see Scenario.frames
    window: int  # frames on their way; see Scenario.window
    pinned: bool
    reads: bool = False  # whether a TunFile's calls are measured too
    bulk_seconds: int = 0  # of one transfer between guests; 0: none

    @property
    def queue_limit(self) -> int:
        """vbackend's, in frames: the default, unless more than that may be on their way to one port."""
        return max(256, *(s.window(self.window) for s in self.scenarios))

    @property
    def cpus(self) -> tuple[int | None, int | None]:
        """For the forwarder and the load generator: two of the CPUs we may use, or None to bind nothing."""
        allowed = sorted(os.sched_getaffinity(0))
        if not self.pinned or len(allowed) < 2:
            return None, None
        return allowed[-1], allowed[0]


@dataclass(frozen=True, slots=True)
class Tools:
    """The compiled programs."""

    floor: FilePath
    load: FilePath
    vhost_load: FilePath


class Run:
    """A context: entered, everything measurable is up; left, everything is gone."""

    def __init__(self, plan: Plan, tools: Tools, folder: FilePath) -> None:
        self._plan = plan
        self._tools = tools
        self._folder = folder
        self._stack = ExitStack()
        self._up: dict[tuple[Path, Forwarder], tuple[Setup, Load]] = {}
        self.skips: list[Skip] = []

    def __enter__(self) -> "Run":
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _start(self, stack: ExitStack) -> None:
        paths = [path for path in Path if any(s.path is path for s in self._plan.scenarios)]
        private = None
        if with_device := [path for path in paths if path.device]:
            if why := namespace.lack():
                self.skips.append(Skip(", ".join(with_device), why))
                paths = [path for path in paths if not path.device]
            else:
                private = stack.enter_context(namespace.private_namespace(f"vbbench{os.getpid()}"))
        for forwarder in self._plan.forwarders:
            if why := forwarders.lack(forwarder):
                self.skips.append(Skip(forwarder, why))
                continue
            for number, path in enumerate(paths):
                place = Place(
                    self._folder / f"{forwarder}-{path}",
                    f"{forwarder}{number}",
                    private if path.device else None,
                    self._tools.floor,
                    self._plan.queue_limit,
                )
                try:
                    self._up[path, forwarder] = self._measurable(stack, forwarder, path, place)
                except BenchError as error:
                    self.skips.append(Skip(f"{forwarder} {path}", str(error)))

    def _measurable(
        self, stack: ExitStack, forwarder: Forwarder, path: Path, place: Place
    ) -> tuple[Setup, Load]:
        """Entered into `stack` only when both the forwarder and its load generator are up."""
        with ExitStack() as inner:
            setup = inner.enter_context(started(forwarder, path, place))
            source, sink = reversed(setup.sides) if path.from_device else setup.sides
            tool = self._tools.vhost_load if path.layout else self._tools.load
            command = place.inside([str(tool), source, sink])
            load = inner.enter_context(Load.connected(command, place.folder / "load.log"))
            forwarder_cpu, load_cpu = self._plan.cpus
            pin(setup.pid, forwarder_cpu)
            pin(load.pid, load_cpu)
            if forwarder.spins:
                os.kill(setup.pid, signal.SIGSTOP)
                inner.callback(os.kill, setup.pid, signal.SIGCONT)
            stack.push(inner.pop_all())
        return setup, load

    def idle(self, seconds: float) -> dict[Forwarder, int]:
        """CPU time in ns without traffic, the most of a forwarder's processes."""
        sleeping = {key: setup.pid for key, (setup, _) in self._up.items() if not key[1].spins}
        before = {key: settled_cpu_ns(pid) for key, pid in sleeping.items()}
        time.sleep(seconds)
        spent = {key: settled_cpu_ns(pid) - before[key] for key, pid in sleeping.items()}
        for (path, forwarder), (setup, _) in self._up.items():
            if forwarder.spins and forwarder not in {other for _, other in spent}:
                start = cpu_ns(setup.pid)
                with _awake(setup.pid, forwarder):
                    time.sleep(seconds)
                spent[path, forwarder] = cpu_ns(setup.pid) - start
        seen = dict.fromkeys(forwarder for _, forwarder in self._up)
        return {f: max(ns for (_, other), ns in spent.items() if other is f) for f in seen}

    def samples(self, on_round: Callable[[int, Scenario], None]) -> Iterator[Sample]:
        """Measure, round by round; each scenario goes through all forwarders before the next one's turn.

        Round 0 is for warming up: a tenth of the frames, and not told.
        """
        for number in range(self._plan.rounds + 1):
            for scenario in self._plan.scenarios:
                on_round(number, scenario)
                for forwarder in self._plan.forwarders:
                    if (scenario.path, forwarder) in self._up:
                        sample = self._sample(number, scenario, forwarder)
                        if number:
                            yield sample

    def _sample(self, number: int, scenario: Scenario, forwarder: Forwarder) -> Sample:
        setup, load = self._up[scenario.path, forwarder]
        frames = scenario.frames(self._plan.frames if number else max(self._plan.frames // 10, 1))
        window = scenario.window(self._plan.window)
        before = settled_cpu_ns(setup.pid)
        with _awake(setup.pid, forwarder):
            outcome = load.run(scenario.size, scenario.burst, frames, window, scenario.mode)
        spent = settled_cpu_ns(setup.pid) - before
        if forwarder.spins:  # its one busy thread went on after the last frame until it was stopped
            spent = min(spent, outcome.wall_ns)
        return Sample(
            scenario,
            forwarder,
            number,
            outcome.sent,
            outcome.arrived,
            outcome.foreign,
            spent,
            outcome.wall_ns,
        )


@contextmanager
def _awake(pid: int, forwarder: Forwarder) -> Iterator[None]:
    """One that spins runs inside only."""
    if not forwarder.spins:
        yield
        return
    os.kill(pid, signal.SIGCONT)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGSTOP)
