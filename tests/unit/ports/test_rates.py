"""Rates and bursts: the text forms, their limits, and the burst that goes with a rate."""

import pytest

from vbackend.ports.rates import BURST_MAX, RATE_MAX, burst_for, read_burst, read_rate, short


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 1),
        ("9600", 9_600),
        ("800k", 800_000),
        ("800K", 800_000),
        ("10M", 10_000_000),
        ("1.5G", 1_500_000_000),
        ("0.0015k", None),
        ("1T", RATE_MAX),
        ("1.001T", None),
        ("0", None),
        ("", None),
        ("M", None),
        ("-1M", None),
        ("1e6", None),
        ("10 M", None),
        ("10m", None),
        ("٣", None),
        ("9" * 5000, None),
    ],
)
def test_a_rate_is_read(text: str, expected: int | None) -> None:
    if expected is None:
        with pytest.raises(ValueError, match=r"rate is .*; give bits/s"):
            read_rate("rate", text)
    else:
        assert read_rate("rate", text) == expected


def test_bursts_have_their_own_limit() -> None:
    assert (read_burst("burst", "64k"), read_burst("burst", "10G")) == (64_000, BURST_MAX)
    with pytest.raises(ValueError, match="burst is '11G'; give bytes"):
        read_burst("burst", "11G")


@pytest.mark.parametrize(
    ("rate", "wanted", "expected"),
    [
        (1, None, 16_384),
        (6_553_600, None, 16_384),
        (6_553_601, None, 16_385),
        (1_000_000_000, None, 2_500_000),
        (8_000_000, 9_999, 10_000),
        (8_000_000, 10_001, 10_001),
        (1, 1, 1),
    ],
)
def test_a_burst_holds_what_the_clock_cannot_see(rate: int, wanted: int | None, expected: int) -> None:
    assert burst_for(rate, wanted) == expected


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1_000, "1k"),
        (1_500_000_000, "1.5G"),
        (10_000_000, "10M"),
        (1_234_567, "1234567"),
        (10**12, "1T"),
    ],
)
def test_short_forms_are_exact(count: int, text: str) -> None:
    assert short(count) == text
    assert count == 0 or read_rate("rate", text) == count
