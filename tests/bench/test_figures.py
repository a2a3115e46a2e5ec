"""The arithmetic of the report: medians, ratios inside a round, lost frames, targets."""

import json
import math

import pytest

from tests.bench.figures import Report, Sample, Skip, summarise
from tests.bench.scenario import SCENARIOS, TARGETS, Forwarder, Path, Scenario

B32 = Scenario(Path.STREAM_STREAM, 64, 32)
TAP_STREAM = Scenario(Path.TAP_STREAM, 64, 1)
VHOST = Scenario(Path.VHOST_VHOST, 64, 32)


def sample(
    forwarder: Forwarder, number: int, cpu_ns: int, *, arrived: int = 100, scenario: Scenario = B32
) -> Sample:
    return Sample(scenario, forwarder, number, 100, arrived, 0, cpu_ns, wall_ns=1_000_000)


def test_ratio_is_formed_within_each_round() -> None:
    # The machine was ten times slower in round 2; the ratio was 2, 2 and 3 throughout.
    floor = [sample(Forwarder.FLOOR, n, ns) for n, ns in ((1, 1_000), (2, 10_000), (3, 1_000))]
    ours = [sample(Forwarder.VBACKEND, n, ns) for n, ns in ((1, 2_000), (2, 20_000), (3, 3_000))]
    cell = summarise([*floor, *ours])[1]
    assert cell.ratio == 2
    assert (cell.cpu_per_frame, cell.cpu_least, cell.cpu_most) == (30, 20, 200)
    assert cell.rate == 100_000


def test_cost_is_shared_by_the_frames_that_arrived() -> None:
    (cell,) = summarise([sample(Forwarder.VDE, 1, 5_000, arrived=50)])
    assert (cell.cpu_per_frame, cell.sent, cell.lost, cell.ratio) == (100, 100, 50, None)


def test_round_without_arrivals_counts_as_loss_only() -> None:
    runs = [sample(Forwarder.QEMU, 1, 1_000), sample(Forwarder.QEMU, 2, 9_000, arrived=0)]
    (cell,) = summarise(runs)
    assert (cell.cpu_per_frame, cell.sent, cell.lost) == (10, 200, 100)
    assert math.isinf(runs[1].cpu_per_frame)
    assert summarise(runs[1:]) == ()


def test_round_whose_floor_failed_has_no_ratio() -> None:
    runs = [
        sample(Forwarder.FLOOR, 1, 1_000),
        sample(Forwarder.FLOOR, 2, 1_000, arrived=0),
        sample(Forwarder.VBACKEND, 1, 4_000),
        sample(Forwarder.VBACKEND, 2, 1_000),
    ]
    assert summarise(runs)[1].ratio == 4


def test_between_rings_ratios_are_to_dpdk() -> None:
    dpdk = [sample(Forwarder.DPDK, n, ns, scenario=VHOST) for n, ns in ((1, 1_000), (2, 2_000))]
    ours = [sample(Forwarder.VBACKEND, n, ns, scenario=VHOST) for n, ns in ((1, 1_500), (2, 3_000))]
    cells = summarise([*dpdk, *ours])
    assert [cell.ratio for cell in cells] == [1, 1.5]
    assert cells[1].meets_target


@pytest.mark.parametrize(
    ("forwarder", "scenario", "cpu_ns", "expected"),
    [
        (Forwarder.VBACKEND, B32, 1_300, True),
        (Forwarder.VBACKEND, B32, 1_301, False),
        (Forwarder.QEMU, B32, 1_000, None),  # only vbackend has targets
        (Forwarder.VBACKEND, TAP_STREAM, 1_000, None),  # no target on this path
    ],
)
def test_target(forwarder: Forwarder, scenario: Scenario, cpu_ns: int, expected: bool | None) -> None:
    runs = [
        sample(Forwarder.FLOOR, 1, 1_000, scenario=scenario),
        sample(forwarder, 1, cpu_ns, scenario=scenario),
    ]
    assert summarise(runs)[1].meets_target is expected


def test_targets_are_the_agreed_ones() -> None:
    agreed = {
        "stream-stream/64/b32": 1.30,
        "stream-stream/1514/b32": 1.30,
        "stream-tap/64/b1": 1.15,
        "stream-tap/64/b32": 1.15,
        "stream-tap/1514/b1": 1.15,
        "stream-tap/1514/b32": 1.15,
        "stream-tap-tcp/1514/b32": 0.33,
        "stream-tun/64/b1": 1.15,
        "stream-tun/64/b32": 1.15,
        "stream-tun/1514/b1": 1.15,
        "stream-tun/1514/b32": 1.15,
        "tun-stream/64/b1": 1.15,
        "tun-stream/64/b32": 1.15,
        "tun-stream/1514/b1": 1.15,
        "tun-stream/1514/b32": 1.15,
        "vhost-vhost/64/b32": 2.00,
        "vhost-vhost-packed/64/b32": 2.00,
    }
    assert {s.name: limit for s, limit in TARGETS.items()} == agreed
    assert set(TARGETS) <= set(SCENARIOS)


def test_report_is_json() -> None:
    runs = (sample(Forwarder.FLOOR, 1, 1_000), sample(Forwarder.VBACKEND, 1, 1_250))
    report = Report(
        {"CPUs": "2"}, 1, {Forwarder.FLOOR: 0}, 3.0, summarise(runs), (Skip("vde", "none"),), runs
    )
    told = json.loads(json.dumps(report.to_json()))
    assert [r["ratio"] for r in told["results"]] == [1.0, 1.25]
    assert told["results"][1]["meets_target"] is True
    assert told["idle"] == {"floor": {"cpu_ns": 0, "seconds": 3.0}}
    assert len(told["samples"]) == 2
