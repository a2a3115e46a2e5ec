"""The delays between tries, with and without chance."""

import random

from vbackend.ports.backoff import Backoff


def test_delays_double_to_two_seconds_and_stay_there() -> None:
    backoff = Backoff(lambda: 0.0)
    assert [backoff.next_s() for _ in range(8)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_reset_begins_again() -> None:
    backoff = Backoff(lambda: 0.0)
    backoff.next_s()
    backoff.next_s()
    backoff.reset()
    assert backoff.next_s() == 0.05


def test_chance_takes_off_at_most_half() -> None:
    source = random.Random(1)
    backoff = Backoff(source.random)
    delays = [backoff.next_s() for _ in range(1000)][10:]
    assert all(1.0 < delay <= 2.0 for delay in delays)
    assert len(set(delays)) > 900
