"""Carrier of a cable's ends: a table of histories."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbackend.lab.carrier import GRACE_S, CableCarrier, SetCarrier

A, B = "r1:eth0", "r2:eth0"


def told(commands: list[SetCarrier]) -> list[tuple[str, bool]]:
    return [(command.end, command.up) for command in commands]


def joined(hold: float | None = 0.0, *, up: bool = True) -> CableCarrier:
    cable = CableCarrier(up=up, hold=hold)
    for end in (A, B):
        cable.join(-GRACE_S, end)
    return cable


def connected(hold: float | None = 0.0, *, up: bool = True) -> CableCarrier:
    cable = joined(hold, up=up)
    for end in (A, B):
        cable.set_present(0.0, end, True)
    return cable


def test_an_end_has_carrier_when_the_far_end_is_there() -> None:
    cable = joined()
    assert told(cable.tick(0.0)) == [(A, False), (B, False)]
    assert told(cable.set_present(1.0, A, True)) == [(A, False), (B, True)]
    assert told(cable.set_present(2.0, B, True)) == [(A, True), (B, True)]
    assert cable.deadline() is None


def test_an_end_alone_has_none_but_is_not_told_at_once() -> None:
    cable = CableCarrier(up=True, hold=0.0)
    assert told(cable.join(0.0, A)) == []
    assert told(cable.set_present(0.1, A, True)) == []
    assert cable.deadline() == GRACE_S
    assert told(cable.tick(GRACE_S)) == [(A, False)]
    assert told(cable.join(5.0, B)) == [(B, True)]
    assert told(cable.set_present(5.1, B, True)) == [(A, True), (B, True)]
    assert told(cable.leave(6.0, B)) == [(B, False), (A, False)]


def test_what_is_taken_over_sees_nothing() -> None:
    cable = CableCarrier(up=True, hold=3.0)
    for now, end in ((0.0, A), (0.1, B)):
        cable.join(now, end)
    commands = [*cable.set_present(0.2, A, True), *cable.set_present(0.3, B, True)]
    assert all(command.up for command in commands)
    assert {command.end for command in commands} == {A, B}


def test_a_cut_cable_is_told_at_once() -> None:
    cable = CableCarrier(up=False, hold=0.0)
    assert told(cable.join(0.0, A)) == [(A, False)]


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
    cable, now, up, present = joined(hold), 0.0, True, {A: False, B: False}
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
