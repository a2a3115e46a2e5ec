"""The report as people see it."""

from rich.console import Console

from tests.bench.figures import Report, Sample, Skip, summarise
from tests.bench.scenario import Forwarder, Path, Scenario
from tests.bench.table import render
from tests.bench.tunfile import Reading

B32 = Scenario(Path.STREAM_STREAM, 64, 32)
TAP = Scenario(Path.STREAM_TAP, 1514, 1)


def shown(
    *samples: Sample,
    skips: tuple[Skip, ...] = (),
    idle: dict[Forwarder, int] | None = None,
    readings: tuple[Reading, ...] = (),
) -> str:
    report = Report({"CPUs": "2"}, 1, idle or {}, 3.0, summarise(samples), skips, samples, readings)
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(render(report))
    return capture.get()


def sample(scenario: Scenario, forwarder: Forwarder, cpu_ns: int, arrived: int = 1000) -> Sample:
    return Sample(scenario, forwarder, 1, 1000, arrived, 0, cpu_ns, wall_ns=1_000_000)


def row(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if start in line)


def test_figures_ratio_and_verdict_in_one_row() -> None:
    text = shown(sample(B32, Forwarder.FLOOR, 100_000), sample(B32, Forwarder.VBACKEND, 120_000))
    assert row(text, "64 B, b32").replace("│", "").split() == [
        *("64", "B,", "b32"),
        *("0.100", "1.00", "1000"),
        *("0.120", "1.20", "1000"),
        *("≤", "1.30", "met"),
    ]


def test_rings_and_calls_are_named() -> None:
    calls = Scenario(Path.VHOST_VHOST_PACKED, 64, 1)
    text = shown(sample(calls, Forwarder.VBACKEND, 300_000), sample(calls, Forwarder.DPDK, 200_000))
    assert "vhost → vhost, packed rings" in text
    assert row(text, "64 B, b1, calls").replace("│", "").split() == [
        *("64", "B,", "b1,", "calls"),
        *("0.300", "1.50", "1000"),
        *("0.200", "1.00", "1000"),
    ]
    assert "floor" not in text


def test_only_what_was_measured_has_a_place() -> None:
    text = shown(sample(B32, Forwarder.FLOOR, 100_000), sample(TAP, Forwarder.VDE, 100_000))
    assert "stream → stream" in text
    assert "stream → tap" in text
    assert "tap → stream" not in text
    assert "QEMU hub" not in text
    assert "-" in row(text, "1514 B, b1")  # the floor has no figure there


def test_missed_targets_and_lost_frames_are_shown() -> None:
    text = shown(sample(TAP, Forwarder.FLOOR, 100_000), sample(TAP, Forwarder.VBACKEND, 200_000, arrived=990))
    assert "≤ 1.15 missed" in text
    assert "10 of 1000 lost" in text


def test_without_reference_there_is_no_verdict() -> None:
    assert "≤ 1.30 no reference" in shown(sample(B32, Forwarder.VBACKEND, 120_000))


def test_idle_and_skips_are_told() -> None:
    text = shown(
        sample(B32, Forwarder.VDE, 1),
        skips=(Skip("qemu", "no qemu-system-x86_64: install it"),),
        idle={Forwarder.VBACKEND: 0, Forwarder.VDE: 190_000},
    )
    assert "CPU time in 3 s without traffic: vbackend 0 µs, vde_switch 190 µs." in text
    assert "Not measured: qemu: no qemu-system-x86_64: install it" in text


def test_reading_calls_have_a_table_when_there_are_some() -> None:
    forwarded = sample(TAP, Forwarder.FLOOR, 100_000)
    assert "TunFile" not in shown(forwarded)
    text = shown(forwarded, readings=(Reading("read()", 200.0, 190.0, 250.0),))
    assert row(text, "read()").replace("│", "").split() == ["read()", "200", "5000", "≥", "300", "met"]
