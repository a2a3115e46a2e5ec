"""The command line of the bench."""

import pytest

from tests.bench import __main__ as bench
from tests.bench.scenario import Forwarder, Suite


def test_defaults() -> None:
    plan, as_json = bench.plan_of(["stream"])
    assert plan.forwarders == Suite.STREAM.forwarders
    assert (len(plan.scenarios), plan.rounds, plan.frames, plan.pinned, as_json) == (
        14,
        5,
        100_000,
        True,
        False,
    )


def test_tun_has_its_own_paths_and_only_who_can() -> None:
    plan, _ = bench.plan_of(["tun"])
    assert plan.forwarders == (Forwarder.FLOOR, Forwarder.VBACKEND)
    assert {str(s.path) for s in plan.scenarios} == {"stream-tun", "tun-stream"}
    assert len(plan.scenarios) == 8
    assert plan.reads


def test_vhost_is_compared_with_dpdk() -> None:
    plan, _ = bench.plan_of(["vhost"])
    assert plan.forwarders == (Forwarder.VBACKEND, Forwarder.DPDK)
    assert len(plan.scenarios) == 8


@pytest.mark.parametrize(
    "arguments", [["stream"], ["vhost"], ["tun", "--only", "b1"], ["tun", "--forwarders", "floor"]]
)
def test_reading_calls_are_part_of_the_whole_tun_bench_only(arguments: list[str]) -> None:
    assert not bench.plan_of(arguments)[0].reads


@pytest.mark.parametrize(
    ("arguments", "scenarios", "seconds"),
    [
        (["vhost"], 8, 2),
        (["vhost", "--quick"], 8, 1),
        (["vhost", "--only", "bulk"], 0, 2),
        (["vhost", "--only", "packed"], 4, 0),
        (["vhost", "--forwarders", "dpdk"], 8, 0),
        (["stream"], 14, 0),
    ],
)
def test_guests_are_part_of_the_whole_vhost_bench_or_alone(
    arguments: list[str], scenarios: int, seconds: int
) -> None:
    plan, _ = bench.plan_of(arguments)
    assert (len(plan.scenarios), plan.bulk_seconds) == (scenarios, seconds)


def test_quick_gives_way_to_what_is_said() -> None:
    assert (plan := bench.plan_of(["--quick"])[0]).rounds == 3
    assert plan.frames == 20_000
    assert bench.plan_of(["--quick", "--rounds", "9"])[0].rounds == 9


def test_forwarders_keep_their_order() -> None:
    plan, _ = bench.plan_of(["--forwarders", "vde,floor", "--only", "b1"])
    assert plan.forwarders == (Forwarder.FLOOR, Forwarder.VDE)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--forwarders", "ovs"], "no 'ovs'"),
        (["tun", "--forwarders", "qemu"], "no 'qemu' in bench tun; there are floor, vbackend"),
        (["vhost", "--forwarders", "floor"], "no 'floor' in bench vhost; there are vbackend, dpdk"),
        (["tun", "--only", "tap"], "no scenario"),
        (["--only", "b7"], "no scenario"),
        (["--rounds", "0"], "at least 1"),
        (["--window", "16"], "smaller than one burst"),
        (["stream", "--only", "bulk"], "no scenario"),
        (["dgram"], "invalid choice"),
    ],
)
def test_bad_arguments(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        bench.plan_of(arguments)
    assert ending.value.code == 2
    assert says in capsys.readouterr().err


def test_engine_of_profile_dev_is_unfit() -> None:
    assert bench.unfit({"profile": "dev", "version": "0"}) == (
        "the engine's profile is dev, not release: `tools/dev build`"
    )
    assert bench.unfit({"profile": "release", "version": "0"}) is None


def test_facts_name_only_what_takes_part() -> None:
    plan, _ = bench.plan_of(["--forwarders", "floor"])
    assert set(bench.machine(plan)) == {"Linux", "CPUs", "window"}
