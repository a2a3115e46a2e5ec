"""What there is to measure, and how it is chosen."""

import pytest

from tests.bench.scenario import SCENARIOS, Path, Scenario, select


def test_every_path_in_both_sizes_and_bursts() -> None:
    assert len(SCENARIOS) == len({s.name for s in SCENARIOS}) == 3 * 2 * 2
    assert {(s.size, s.burst) for s in SCENARIOS} == {(64, 1), (64, 32), (1514, 1), (1514, 32)}


@pytest.mark.parametrize(
    ("only", "count"),
    [
        ([], 12),
        (["stream-stream"], 4),
        (["b32", "tap-stream"], 2),
        (["/64/"], 6),
        (["stream-tap/1514/b1"], 1),
    ],
)
def test_select(only: list[str], count: int) -> None:
    chosen = select(only)
    assert len(chosen) == count
    assert all(word in s.name for s in chosen for word in only)


def test_select_nothing_names_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"--only b7: no scenario.*stream-stream/64/b1"):
        select(["b7"])


@pytest.mark.parametrize("base", [1, 31, 1000, 200_000])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_frames_are_whole_bursts(scenario: Scenario, base: int) -> None:
    frames = scenario.frames(base)
    assert frames > 0
    assert frames % scenario.burst == 0


def test_window_is_wider_for_cheap_bursts() -> None:
    widths = {s: s.window(256) for s in SCENARIOS}
    assert {w for s, w in widths.items() if s.path is Path.STREAM_STREAM and s.burst == 32} == {1024}
    assert {w for s, w in widths.items() if s.path is not Path.STREAM_STREAM or s.burst == 1} == {256}
