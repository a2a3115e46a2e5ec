"""The account checker finds each kind of mistake."""

import pytest

from tests.support.accounting import assert_accounts
from vbackend.snapshot import BackendSnapshot, LaneCounters, PortSnapshot


def snapshot(lane: LaneCounters) -> BackendSnapshot:
    port = PortSnapshot(
        name="p", kind="stream", where="w", up=True, state="listening", queue_frames=2, queue_bytes=1,
        rx=LaneCounters(), tx=lane,
    )  # fmt: skip
    return BackendSnapshot(name="b", version="0", pid=1, started=0, workers=1, segments=(), ports=(port,))


def test_what_adds_up_passes() -> None:
    assert_accounts(snapshot(LaneCounters(frames_in=6, frames_out=1, queued=2, drops={"runt": 3})))


@pytest.mark.parametrize(
    ("lane", "words"),
    [
        (LaneCounters(frames_in=1), "p tx: 1 in, 0 accounted"),
        (LaneCounters(frames_out=1), "p tx: 0 in, 1 accounted"),
        (LaneCounters(frames_in=3, queued=3), "3 queued"),
        (LaneCounters(drops={"runt": 0}), "runt"),
    ],
)
def test_what_does_not_is_named(lane: LaneCounters, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        assert_accounts(snapshot(lane))
