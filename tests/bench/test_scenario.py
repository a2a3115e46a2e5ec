"""What there is to measure, and how it is chosen."""

from pathlib import Path as FilePath

import pytest

from tests.bench.scenario import RING_SIZE, SCENARIOS, Forwarder, Path, Scenario, Suite, select


def test_every_scenario_is_in_one_suite() -> None:
    assert sorted(s.name for suite in Suite for s in suite.scenarios) == sorted(s.name for s in SCENARIOS)


def test_every_path_in_both_sizes_and_bursts() -> None:
    assert len(SCENARIOS) == len({s.name for s in SCENARIOS}) == 7 * 2 * 2 + 2
    assert {(s.size, s.burst) for s in SCENARIOS} == {(64, 1), (64, 32), (1514, 1), (1514, 32)}
    assert {(s.size, s.burst) for s in SCENARIOS if s.mode == "tcp"} == {(1514, 1), (1514, 32)}


@pytest.mark.parametrize(
    ("suite", "only", "count"),
    [
        (Suite.STREAM, [], 14),
        (Suite.STREAM, ["stream-stream"], 4),
        (Suite.STREAM, ["b32", "tap-stream"], 2),
        (Suite.STREAM, ["tcp"], 2),
        (Suite.STREAM, ["/64/"], 6),
        (Suite.STREAM, ["stream-tap/1514/b1"], 1),
        (Suite.TUN, [], 8),
        (Suite.TUN, ["stream-tun"], 4),
        (Suite.TUN, ["tun-stream/64/b32"], 1),
        (Suite.VHOST, [], 8),
        (Suite.VHOST, ["packed"], 4),
    ],
)
def test_select(suite: Suite, only: list[str], count: int) -> None:
    chosen = select(suite, only)
    assert len(chosen) == count
    assert all(word in s.name for s in chosen for word in only)


def test_select_nothing_names_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"--only b7: no scenario.*stream-stream/64/b1"):
        select(Suite.STREAM, ["b7"])


@pytest.mark.parametrize("base", [1, 31, 1000, 200_000])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_frames_are_whole_bursts(scenario: Scenario, base: int) -> None:
    frames = scenario.frames(base)
    assert frames > 0
    assert frames % scenario.burst == 0


def test_window_is_wider_for_cheap_bursts_and_narrower_where_a_socket_would_fill() -> None:
    widths = {s: s.window(256) for s in SCENARIOS}
    wide = {s for s in SCENARIOS if s.path is Path.STREAM_STREAM and s.burst == 32}
    rings = {s for s in SCENARIOS if s.path.layout}
    narrow = {s for s in SCENARIOS if s.path.from_device and s.size == 1514}
    assert {widths.pop(s) for s in wide} == {1024}
    assert {widths.pop(s) for s in rings} == {512}
    assert {widths.pop(s) for s in narrow} == {129}
    assert set(widths.values()) == {256}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_a_window_holds_a_burst(scenario: Scenario) -> None:
    assert scenario.window(32) >= scenario.burst


def test_half_of_a_ring_may_be_on_its_way_at_most() -> None:
    source = (FilePath(__file__).parent / "native" / "vring.h").read_text()
    assert f"SIZE = {RING_SIZE}," in source
    assert all(s.window(4096) == RING_SIZE // 2 for s in SCENARIOS if s.path.layout)


def test_a_reference_is_a_forwarder_of_its_suite() -> None:
    for suite in Suite:
        assert {s.path.reference for s in suite.scenarios} <= set(suite.forwarders)
        assert Forwarder.VBACKEND in suite.forwarders
