"""Any lab becomes any other; whatever fails on the way, what was before is there again."""

import asyncio
import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from tests.support.labs import FakeWorld, labs
from vbackend.lab.apply import ApplyError, Progress, apply
from vbackend.lab.model import Lab
from vbackend.lab.picture import NOTHING, Picture, after, picture
from vbackend.lab.plan import groups, plan, summary
from vbackend.lab.steps import StartVm, StopVm, describe, inverse

SOME_LAB = st.none() | labs()


def seen(lab: Lab | None) -> Picture:
    return NOTHING if lab is None else picture(lab)


def at_call(number: int, steps: int) -> int:
    return number % max(steps, 1)


@given(labs())
def test_a_lab_that_runs_needs_nothing(lab: Lab) -> None:
    assert plan(lab, lab) == ()
    assert plan(Lab.model_validate_json(lab.model_dump_json()), lab) == ()


@given(SOME_LAB, SOME_LAB)
def test_a_plan_reaches_the_lab_and_each_prefix_can_be_undone(a: Lab | None, b: Lab | None) -> None:
    steps = plan(a, b)
    pictures = [seen(a)]
    for step in steps:
        pictures.append(after(pictures[-1], step))
    assert pictures[-1] == seen(b)
    for (before, now), step in zip(pairwise(pictures), steps, strict=True):
        assert after(now, inverse(step)) == before
        assert inverse(inverse(step)) == step
        assert describe(step)
    assert len(summary(steps)) <= len(steps)
    for step in plan(b, a):
        pictures.append(after(pictures[-1], step))
    assert pictures[-1] == seen(a)


@given(SOME_LAB, SOME_LAB, st.integers(0, 60))
def test_a_plan_from_where_another_one_was_left(a: Lab | None, b: Lab | None, count: int) -> None:
    """As after a crash: the picture is of no lab."""
    now = seen(a)
    for step in plan(a, b)[:count]:
        now = after(now, step)
    for step in plan(now, b):
        now = after(now, step)
    assert now == seen(b)


@given(SOME_LAB, SOME_LAB)
def test_groups_are_the_same_steps_and_start_vms_only(a: Lab | None, b: Lab | None) -> None:
    steps = plan(a, b)
    found = groups(steps)
    assert tuple(step for group in found for step in group) == steps
    assert all(len(group) == 1 or {type(step) for step in group} <= {StartVm, StopVm} for group in found)


@given(labs())
def test_a_picture_comes_back_from_json(lab: Lab) -> None:
    adapter = TypeAdapter(Picture)
    assert adapter.validate_python(json.loads(adapter.dump_json(picture(lab)))) == picture(lab)


@given(SOME_LAB, SOME_LAB)
def test_apply_reaches_the_lab(a: Lab | None, b: Lab | None) -> None:
    world = FakeWorld(seen(a))
    told: list[Progress] = []
    steps = plan(a, b)
    asyncio.run(apply(steps, world, told.append))
    assert world.now == seen(b)
    assert {describe(each.step) for each in told if each.state == "done"} == set(map(describe, steps))
    assert len(told) == 2 * len(steps)


@given(SOME_LAB, SOME_LAB, st.integers(0, 200))
def test_a_step_that_fails_leaves_what_was_before(a: Lab | None, b: Lab | None, number: int) -> None:
    steps = plan(a, b)
    world = FakeWorld(seen(a), {at_call(number, len(steps))})
    if not steps:
        return
    with pytest.raises(ApplyError) as caught:
        asyncio.run(apply(steps, world))
    assert world.now == seen(a)
    (failure,) = caught.value.failures
    assert failure[0] == world.calls[at_call(number, len(steps))]
    assert "was to fail" in str(caught.value)
    assert caught.value.left == ()


@given(SOME_LAB, SOME_LAB, st.integers(0, 200), st.integers(1, 200))
def test_the_undo_goes_on_when_it_fails(a: Lab | None, b: Lab | None, number: int, later: int) -> None:
    steps = plan(a, b)
    if not steps:
        return
    first = at_call(number, len(steps))
    world = FakeWorld(seen(a), {first, first + later})
    told: list[Progress] = []
    with pytest.raises(ApplyError) as caught:
        asyncio.run(apply(steps, world, told.append))
    done = [inverse(each.step) for each in told if each.state == "done" and not each.undo]
    tried = [each.step for each in told if each.state == "begin" and each.undo]
    assert tried == done[::-1]
    assert list(caught.value.left) == [(each.step, each.error) for each in told if each.undo and each.error]
    if caught.value.left:
        assert "is undone, except" in str(caught.value)
    else:
        assert world.now == seen(a)


@given(SOME_LAB, SOME_LAB, st.integers(0, 200), st.booleans())
def test_a_cancelled_apply_leaves_what_was_before(
    a: Lab | None, b: Lab | None, turns: int, again: bool
) -> None:
    """Cancelled after any number of turns of the loop, and once more while it undoes."""
    world = FakeWorld(seen(a))

    async def main() -> bool:
        task = asyncio.ensure_future(apply(plan(a, b), world))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        if again:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return False
        return True

    finished = asyncio.run(main())
    assert world.now == (seen(b) if finished else seen(a))
    assert world.busy == 0
