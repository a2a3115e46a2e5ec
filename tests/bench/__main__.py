"""`tools/dev bench [stream|tun|vhost]`: see README.md beside this file."""

import argparse
import asyncio
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from tests.bench import bulk, namespace, tunfile
from tests.bench.compiler import CompileError, compiled
from tests.bench.figures import Report, Skip, summarise
from tests.bench.forwarders import lack, version
from tests.bench.process import BenchError, preferred_session
from tests.bench.runner import Plan, Run, Tools
from tests.bench.scenario import FORWARDERS, Forwarder, Scenario, Suite, select
from tests.bench.table import TITLES, render

__all__ = ["machine", "main", "plan_of", "unfit"]

IDLE_SECONDS = 3.0
BULK = "bulk"  # for --only: guests, and no frames


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/dev bench",
        description="CPU time per frame and frames per second, beside references measured in the same run.",
    )
    parser.add_argument("suite", nargs="?", choices=[str(suite) for suite in Suite], default="stream")
    parser.add_argument("--quick", action="store_true", help="three rounds, a fifth of the frames")
    parser.add_argument("--rounds", type=int, metavar="N", help="interleaved rounds [5]")
    parser.add_argument(
        "--frames",
        type=int,
        metavar="N",
        help="frames of a b1 run; b32 sends twice as many, vhost five times [100000]",
    )
    parser.add_argument(
        "--window",
        type=int,
        default=256,
        metavar="N",
        help="most frames on their way [256]; four times as many stream to stream at b32",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="WORD",
        help="scenarios with WORD in their name; vhost: or `bulk`",
    )
    parser.add_argument("--forwarders", metavar="NAME,...", help=f"some of {','.join(FORWARDERS)} [all]")
    parser.add_argument("--no-pin", action="store_true", help="let the scheduler choose the CPUs")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser


def plan_of(arguments: Sequence[str]) -> tuple[Plan, bool]:
    """The plan the arguments ask for, and whether JSON is wanted. SystemExit(2) when they make no sense."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    suite = Suite(chosen.suite)
    able = suite.forwarders
    only_bulk = suite is Suite.VHOST and chosen.only == [BULK]
    try:
        scenarios = () if only_bulk else select(suite, chosen.only)
    except ValueError as error:
        parser.error(str(error))
    names = chosen.forwarders.split(",") if chosen.forwarders else list(able)
    if unknown := [name for name in names if name not in list(able)]:
        parser.error(f"--forwarders: no {unknown[0]!r} in bench {suite}; there are {', '.join(able)}")
    rounds = (3 if chosen.quick else 5) if chosen.rounds is None else chosen.rounds
    frames = (20_000 if chosen.quick else 100_000) if chosen.frames is None else chosen.frames
    if rounds < 1 or frames < 1:
        parser.error("--rounds and --frames: at least 1")
    if chosen.window < max((s.burst for s in scenarios), default=1):
        parser.error(f"--window {chosen.window}: smaller than one burst; at least 32, or --only b1")
    wanted = tuple(f for f in able if f in names)
    reads = suite is Suite.TUN and Forwarder.VBACKEND in wanted and not chosen.only
    whole = only_bulk or not chosen.only
    transfers = suite is Suite.VHOST and Forwarder.VBACKEND in wanted and whole
    seconds = (1 if chosen.quick else 2) if transfers else 0
    return Plan(
        scenarios, wanted, rounds, frames, chosen.window, not chosen.no_pin, reads, seconds
    ), chosen.json


def unfit(info: Mapping[str, str]) -> str | None:
    """Why an engine that says this of itself is not worth measuring; None: it is."""
    if info["profile"] == "release":
        return None
    return f"the engine's profile is {info['profile']}, not release: `tools/dev build`"


def machine(plan: Plan) -> dict[str, str]:
    """What the figures belong to. BenchError when the engine is not built for speed."""
    facts = {"Linux": platform.release(), "CPUs": str(os.cpu_count()), "window": str(plan.window)}
    if Forwarder.VBACKEND in plan.forwarders:
        try:
            from vbackend.dataplane import build_info
        except ImportError as error:
            raise BenchError(
                f"no engine ({error}): `tools/dev build`, or leave it out with --forwarders"
            ) from error
        info = build_info()
        if why := unfit(info):
            raise BenchError(why)
        facts["vbackend"] = info["version"]
    for forwarder in plan.forwarders:
        if lack(forwarder) is None and (told := version(forwarder)):
            facts[TITLES[forwarder]] = told
    return facts


def _measure(plan: Plan, console: Console) -> Report:
    facts = machine(plan)
    tools = Tools(compiled("floor"), compiled("load"), compiled("vhost_load"))
    with tempfile.TemporaryDirectory(prefix="vbbench-") as folder, console.status("starting") as status:

        def tell(number: int, scenario: Scenario) -> None:
            status.update(f"round {number} of {plan.rounds}: {scenario.name}" if number else "warming up")

        with Run(plan, tools, Path(folder)) as run:
            status.update(f"idle CPU time, {IDLE_SECONDS:g} s")
            idle = run.idle(IDLE_SECONDS) if plan.scenarios else {}
            samples = tuple(run.samples(tell))
        flows, lacking = _flows(plan, Path(folder), status.update) if plan.bulk_seconds else ((), ())
    readings = _readings(plan) if plan.reads else ()
    skips = (*run.skips, *lacking)
    return Report(facts, plan.rounds, idle, IDLE_SECONDS, summarise(samples), skips, samples, readings, flows)


def _flows(
    plan: Plan, folder: Path, tell: Callable[[str], None]
) -> tuple[tuple[bulk.Flow, ...], tuple[Skip, ...]]:
    from tests.bench import guests  # which takes much of vbackend with it

    if why := namespace.lack() or guests.lack():
        return (), (Skip("bulk TCP of guests", why),)
    with namespace.private_namespace(f"vbbulk{os.getpid()}") as private, preferred_session():
        measuring = guests.transfers(
            folder, private, rounds=plan.rounds, seconds=plan.bulk_seconds, tell=tell
        )
        done, lacks = asyncio.run(measuring)
    return bulk.summarise(done), tuple(Skip(link, why) for link, why in lacks.items())


def _readings(plan: Plan) -> tuple[tunfile.Reading, ...]:
    with tunfile.readers() as calls:
        return tunfile.measured(calls, rounds=plan.rounds, packets=plan.frames, depth=tunfile.DEPTH)


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 measured, 1 cannot measure, 2 bad arguments, 130 interrupted."""
    plan, as_json = plan_of(arguments)
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # so that all is undone
    try:
        report = _measure(plan, Console(stderr=True))
    except (BenchError, CompileError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if as_json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        Console(width=None if sys.stdout.isatty() else 140).print(render(report))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
