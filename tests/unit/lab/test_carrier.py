"""Carrier of a cable's ends: a table of histories."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbackend.lab.carrier import CableCarrier, SetCarrier

A, B = "r1:eth0", "r2:eth0"


def told(commands: list[SetCarrier]) -> list[tuple[str, bool]]:
    return [(command.end, command.up) for command in commands]


def connected(hold: float | None = 0.0, *, up: bool = True) -> CableCarrier:
    cable = CableCarrier((A, B), up=up, hold=hold)
    for end in (A, B):
        cable.set_present(0.0, end, True)
    return cable


def test_an_end_has_carrier_when_the_far_end_is_there() -> None:
    cable = CableCarrier((A, B), up=True, hold=0.0)
    assert told(cable.tick(0.0)) == [(A, False), (B, False)]
    assert told(cable.set_present(1.0, A, True)) == [(A, False), (B, True)]
    assert told(cable.set_present(2.0, B, True)) == [(A, True), (B, True)]
    assert cable.deadline() is None


def test_what_goes_away_takes_the_far_carrier() -> None:
    cable = connected()
    assert told(cable.set_present(1.0, B, False)) == [(A, False)]
    assert told(cable.set_present(2.0, B, True)) == [(A, True), (B, True)]


def test_a_cut_cable_takes_both() -> None:
    cable = connected()
    assert told(cable.set_cable(1.0, up=False, hold=0.0)) == [(A, False), (B, False)]
    assert told(cable.set_cable(1.0, up=False, hold=0.0)) == []
    assert told(cable.set_cable(2.0, up=True, hold=0.0)) == [(A, True), (B, True)]


def test_hold_down_begins_with_every_loss() -> None:
    cable = connected(hold=3.0)
    assert (cable.told(A), cable.told(B)) == (True, True)  # the first carrier is not held down
    assert told(cable.set_present(10.0, B, False)) == [(A, False)]
    assert told(cable.set_present(11.0, B, True)) == [(B, True)]
    assert cable.deadline() == 13.0
    assert told(cable.tick(12.9)) == []
    assert told(cable.tick(13.0)) == [(A, True)]
    assert told(cable.set_present(14.0, B, False)) == [(A, False)]
    cable.set_present(14.5, B, True)
    assert cable.deadline() == 17.0


def test_without_coupling_nobody_notices() -> None:
    cable = connected(hold=None, up=False)
    assert (cable.told(A), cable.told(B)) == (True, True)
    assert told(cable.set_present(1.0, B, False)) == []
    assert told(cable.set_cable(2.0, up=True, hold=None)) == []


@pytest.mark.parametrize("up", [True, False])
def test_a_newcomer_is_told(up: bool) -> None:
    cable = connected(up=up)
    cable.set_present(1.0, A, False)
    assert (A, up) in told(cable.set_present(2.0, A, True))


@given(
    st.lists(
        st.tuples(st.floats(0.01, 2.0), st.sampled_from(["cut", "mend", "a+", "a-", "b+", "b-", "wait"])),
        max_size=40,
    ),
    st.sampled_from([0.0, 0.5, 3.0]),
)
def test_in_the_end_it_is_true(history: list[tuple[float, str]], hold: float) -> None:
    """Whatever happened: when all deadlines have passed, each end has what it should have."""
    cable, now, up, present = CableCarrier((A, B), up=True, hold=hold), 0.0, True, {A: False, B: False}
    cable.tick(now)
    for after, what in history:
        now += after
        match what:
            case "cut" | "mend":
                up = what == "mend"
                cable.set_cable(now, up=up, hold=hold)
            case "wait":
                cable.tick(now)
            case _:
                end = A if what[0] == "a" else B
                present[end] = what[1] == "+"
                cable.set_present(now, end, present[end])
        for end, far in ((A, B), (B, A)):
            if not (up and present[far]):
                assert cable.told(end) is False
    while (due := cable.deadline()) is not None:
        assert due <= now + hold
        cable.tick(max(now, due))
    assert {end: cable.told(end) for end in (A, B)} == {A: up and present[B], B: up and present[A]}
