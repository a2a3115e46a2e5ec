"""The comparison's arithmetic and segments; and a short run, which loses nothing."""

import struct

import pytest

from tests.bench.merging import Comparison, measured, segments
from tests.bench.namespace import lack


@pytest.mark.parametrize(("merged", "ratio", "verdict"), [(300.0, 0.3, "met"), (350.0, 0.35, "missed")])
def test_the_verdict(merged: float, ratio: float, verdict: str) -> None:
    comparison = Comparison(1000.0, merged, 200.0)
    assert comparison.ratio == pytest.approx(ratio)
    assert f"{ratio:.2f} of it (target ≤ 0.33: {verdict})" in str(comparison)
    assert str(comparison).endswith("alone 0.200 µs: 0.20")


def test_segments_follow_each_other_and_their_checksums_are_right() -> None:
    frames = segments(3, 100)
    for number, frame in enumerate(frames):
        assert len(frame) == 14 + 20 + 20 + 100
        assert struct.unpack(">H", frame[18:20]) == (number,)
        assert struct.unpack(">I", frame[38:42]) == (number * 100,)
        pseudo = frame[26:34] + struct.pack(">HH", 6, len(frame) - 34)
        for covered in (frame[14:34], pseudo + frame[34:]):
            total = sum(struct.unpack(f">{len(covered) // 2}H", covered))
            assert total % 0xFFFF == 0


@pytest.mark.root
def test_nothing_is_lost() -> None:
    if why := lack():
        pytest.skip(why)
    comparison = measured(rounds=1, batches=32)
    assert comparison.single > 0
    assert comparison.merged > 0
    assert comparison.least > 0
