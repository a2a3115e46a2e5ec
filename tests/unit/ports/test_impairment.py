"""Impairments: the text of each value, what makes no sense together, and how one is changed."""

from dataclasses import replace
from typing import Any

import pytest

from vbackend.ports.impairment import (
    KEYS,
    NO_IMPAIRMENT,
    Gilbert,
    Impairment,
    changed_impairment,
    check_word,
    format_duration,
    read_duration,
    read_loss,
    read_probability,
)


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("0", 0),
        ("200us", 200),
        ("50ms", 50_000),
        ("1.5s", 1_500_000),
        ("0.001ms", 1),
        ("2min", 120_000_000),
        ("1h", 3_600_000_000),
        ("1.1h", None),
        ("0.5us", None),
        ("50", None),
        ("50 ms", None),
        ("-1ms", None),
        ("ms", None),
        ("", None),
        ("1e3ms", None),
        ("٣ms", None),
        ("9" * 5000 + "ms", None),
    ],
)
def test_a_time_is_read(text: str, us: int | None) -> None:
    if us is None:
        with pytest.raises(ValueError, match=r"delay is .*; give a time such as 200us"):
            read_duration("delay", text)
    else:
        assert read_duration("delay", text) == us


@pytest.mark.parametrize(
    ("us", "text"),
    [
        (0, "0"),
        (1, "1us"),
        (1_500, "1.5ms"),
        (50_000, "50ms"),
        (1_234_567, "1234567us"),
        (90_000_000, "90s"),
        (1_800_000_000, "0.5h"),
        (3_600_000_000, "1h"),
    ],
)
def test_a_time_is_written_shortly_and_exactly(us: int, text: str) -> None:
    assert format_duration(us) == text
    assert read_duration("", text) == us


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0.0),
        ("1%", 0.01),
        ("0.01", 0.01),
        ("100%", 1.0),
        ("1", 1.0),
        ("0.0001%", 0.000001),
        ("1e-3", 0.001),
        ("101%", None),
        ("1.5", None),
        ("-1%", None),
        ("%", None),
        ("nan", None),
        ("1 %", None),
        ("", None),
    ],
)
def test_a_probability_is_read(text: str, value: float | None) -> None:
    if value is None:
        with pytest.raises(ValueError, match=r"corrupt is .*; give a probability such as 1% or 0.01"):
            read_probability("corrupt", text)
    else:
        assert read_probability("corrupt", text) == value


@pytest.mark.parametrize(
    ("text", "loss"),
    [
        ("2%", 0.02),
        ("gilbert:p=1%,r=10%", Gilbert(0.01, 0.1)),
        ("gilbert:r=10%:p=1%:1-k=0.1%:1-h=80%", Gilbert(0.01, 0.1, 0.8, 0.001)),
    ],
)
def test_losses_are_read(text: str, loss: float | Gilbert) -> None:
    assert read_loss("loss", text) == loss


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("gilbert", "write loss=gilbert:p=1%,r=10%"),
        ("gilbert:", "write loss=gilbert:p=1%,r=10%"),
        ("gilbert:p=1%", "write loss=gilbert:p=1%,r=10%"),
        ("gilbert:p=1%,r=10%,p=2%", "write loss=gilbert:p=1%,r=10%"),
        ("gilbert:p=1%,r=10%,h=2%", "write loss=gilbert:p=1%,r=10%"),
        ("gilbert:p=1%,r=200%", "r of loss is '200%'; give a probability"),
        ("gilbrt:p=1%", "loss is 'gilbrt:p=1%'; give a probability"),
    ],
)
def test_wrong_losses_are_told(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_loss("loss", text)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"delay": -1}, "delay is -1 µs"),
        ({"delay": 3_600_000_001}, "give up to an hour"),
        ({"delay": 5_000, "jitter": 6_000}, r"jitter \(6ms\) exceeds delay \(5ms\)"),
        ({"reorder": 0.1}, "reorder is of no use without a delay"),
        ({"delay": 5, "overtake": True}, "overtake is of no use without a jitter"),
        ({"loss": 1.1}, r"loss is 1.1; give a probability"),
        ({"loss": float("nan")}, "loss is nan"),
        ({"duplicate": -0.1}, "duplicate is -0.1"),
        ({"seed": 1 << 64}, "seed is"),
        ({"hold": 1}, "hold is 1 bytes"),
    ],
)
def test_what_makes_no_sense_is_told(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        replace(NO_IMPAIRMENT, **values)


@pytest.mark.parametrize("values", [(1.1, 0.5), (0.5, -1.0), (0.5, 0.5, 2.0), (0.5, 0.5, 0.5, 2.0)])
def test_bursts_have_probabilities(values: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="give a probability from 0 to 1"):
        Gilbert(*values)


def test_words_change_what_they_name() -> None:
    first = NO_IMPAIRMENT.changed({"delay": "50ms", "jitter": "5ms", "loss": "1%", "overtake": "on"})
    assert first == Impairment(delay=50_000, jitter=5_000, loss=0.01, overtake=True)
    assert first.settings() == {"delay": "50ms", "jitter": "5ms", "overtake": "on", "loss": "1%"}
    second = first.changed({"jitter": "off", "overtake": "off", "seed": "7", "hold": "1M"})
    assert second.settings() == {"delay": "50ms", "loss": "1%", "seed": "7", "hold": "1M"}
    assert changed_impairment(second, {"impair": "off", "corrupt": "0.5"}) == Impairment(corrupt=0.5)
    assert changed_impairment(second, {"loss": "off"}) == Impairment(delay=50_000, seed=7, hold=1_000_000)
    assert changed_impairment(second, dict.fromkeys(KEYS, "off")) == NO_IMPAIRMENT


@pytest.mark.parametrize(
    ("key", "text", "problem"),
    [
        ("delay", "x", "delay is 'x'"),
        ("overtake", "yes", "overtake is 'yes'; give on or off"),
        ("seed", "-1", "seed is '-1'; give a number from 0"),
        ("seed", "1" * 30, "give a number from 0 to 18446744073709551615"),
        ("hold", "1k", "hold is '1k'; give bytes such as"),
        ("hold", "5G", "hold is '5G'; give bytes such as"),
        ("impair", "on", "impair is 'on'; give off"),
        ("colour", "red", "'colour' is no impairment; there are delay, jitter"),
    ],
)
def test_a_wrong_word_is_told(key: str, text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check_word(key, text)


def test_a_word_that_needs_others_may_be_good() -> None:
    check_word("jitter", "5ms")
    check_word("impair", "off")


@pytest.mark.parametrize(
    ("impairment", "off"),
    [
        (NO_IMPAIRMENT, True),
        (Impairment(seed=7, hold=1 << 20), True),
        (Impairment(delay=1), False),
        (Impairment(loss=Gilbert(0.1, 0.1)), False),
        (Impairment(duplicate=1e-9), False),
        (Impairment(corrupt=1.0), False),
    ],
)
def test_off_is_when_nothing_happens(impairment: Impairment, off: bool) -> None:
    assert impairment.is_off == off


def test_frames_follow_the_bytes_that_are_held() -> None:
    assert (Impairment().hold_frames, Impairment(hold=1 << 30).hold_frames) == (1 << 18, 1 << 22)
