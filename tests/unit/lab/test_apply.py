"""Carrying out steps: what is told, and what failures say. Any lab, any failure: tests/property/lab/test_apply.py."""

import asyncio

import pytest

from tests.support.labs import FakeWorld
from vbackend.errors import HostError
from vbackend.lab.apply import ApplyError, Progress, apply, carry_out
from vbackend.lab.model import Vm
from vbackend.lab.picture import NOTHING
from vbackend.lab.steps import AddSegment, StartVm, Step, StopVm

VM = Vm(image="small")
SEGMENTS: tuple[Step, ...] = (AddSegment("a", "switch"), AddSegment("b", "switch"))
VMS: tuple[Step, ...] = tuple(StartVm(name, VM, {}) for name in ("r1", "r2", "r3"))


def words(told: list[Progress]) -> list[str]:
    return [f"{'undo ' if each.undo else ''}{each.state} {getattr(each.step, 'name', '')}" for each in told]


async def test_vms_start_side_by_side() -> None:
    world = FakeWorld(NOTHING)
    await apply((*SEGMENTS, *VMS), world)
    assert world.most_busy == 3
    assert world.now.vms.keys() == {"r1", "r2", "r3"}


async def test_what_is_told() -> None:
    told: list[Progress] = []
    with pytest.raises(ApplyError) as caught:
        await apply(SEGMENTS, FakeWorld(NOTHING, {1}), told.append)
    assert words(told) == ["begin a", "done a", "begin b", "failed b", "undo begin a", "undo done a"]
    assert told[3].error == "call 1 was to fail"
    assert str(caught.value) == (
        "step '+ switch b' failed: call 1 was to fail; what was done before is undone"
    )


async def test_an_undo_that_fails_is_told_and_the_rest_goes_on() -> None:
    world = FakeWorld(NOTHING, {2, 3})
    with pytest.raises(ApplyError) as caught:
        await apply((*SEGMENTS, *VMS[:1]), world)
    assert str(caught.value) == (
        "step '+ vm r1 (small)' failed: call 2 was to fail; "
        "what was done before is undone, except '- switch b': call 3 was to fail"
    )
    assert world.now.segments.keys() == {"b"}


async def test_two_vms_fail() -> None:
    """Both are told, the third is cancelled or undone."""
    world = FakeWorld(NOTHING, {2, 3})
    with pytest.raises(ApplyError) as caught:
        await apply((*SEGMENTS, *VMS), world)
    assert [str(why) for _, why in caught.value.failures][:1] == ["call 2 was to fail"]
    assert world.now == NOTHING
    assert world.busy == 0


async def test_without_undo_what_was_done_stays() -> None:
    world = FakeWorld(NOTHING, {1})
    with pytest.raises(ApplyError, match="what was done before stays"):
        await apply(SEGMENTS, world, undo=False)
    assert world.now.segments.keys() == {"a"}


@pytest.mark.parametrize("state", ["begin", "done", "failed"])
async def test_whoever_keeps_account_may_fail(state: str) -> None:
    """As when the disk is full."""

    def account(progress: Progress) -> None:
        if progress.state == state and not progress.undo and progress.step != SEGMENTS[0]:
            raise OSError("no space")

    world = FakeWorld(NOTHING, {2} if state == "failed" else ())
    with pytest.raises(OSError, match="no space"):
        await apply((*SEGMENTS, *VMS), world, account)
    assert world.now == NOTHING


async def test_what_fails_without_words() -> None:
    with pytest.raises(ApplyError, match="failed: KeyError; "):
        await apply(SEGMENTS, FakeWorld(NOTHING, {0}, KeyError()))


async def test_cancelled_while_it_undoes() -> None:
    """The undo is not cut short, and its failure is not forgotten."""
    world = FakeWorld(NOTHING, {1})

    def account(progress: Progress) -> None:
        if progress.undo and progress.state == "begin":
            task.cancel()

    task = asyncio.ensure_future(apply(SEGMENTS, world, account))
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert isinstance(caught.value.__cause__, ApplyError)
    assert world.now == NOTHING


@pytest.mark.parametrize(
    ("step", "calls"),
    [
        (StopVm("r1", VM, {}), ["stop", "stopped", "start", "started"]),
        (StartVm("r1", VM, {}), ["start"]),
    ],
)
async def test_what_takes_away_is_not_cut_short(step: Step, calls: list[str]) -> None:
    class Slow(FakeWorld):
        async def stop_vm(self, _: Step) -> None:
            told.append("stop")
            begun.set()
            await asyncio.sleep(0.01)
            told.append("stopped")

        async def start_vm(self, _: Step) -> None:
            told.append("start")
            begun.set()
            await asyncio.sleep(0.01)
            told.append("started")

    told: list[str] = []
    begun = asyncio.Event()
    task = asyncio.ensure_future(apply([step], Slow(NOTHING)))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == calls


async def test_each_step_has_its_method() -> None:
    """FakeWorld's are all the same, so here by name."""

    class Named:
        def __getattr__(self, name: str) -> object:
            async def call(step: Step) -> None:
                called.append((name, type(step).__name__))

            return call

    called: list[tuple[str, str]] = []
    for kind in Step.__args__:
        step = object.__new__(kind)
        await carry_out(step, Named())  # type: ignore[arg-type]
    assert len(called) == 14
    for method, kind_name in called:
        assert method.replace("_", "") == kind_name.lower()


async def test_a_world_that_cancels_itself_has_failed() -> None:
    with pytest.raises(ApplyError, match="failed: cancelled; "):
        await apply(SEGMENTS, FakeWorld(NOTHING, {1}, asyncio.CancelledError()))


async def test_errors_are_one_line() -> None:
    with pytest.raises(ApplyError, match="two lines"):
        await apply(SEGMENTS, FakeWorld(NOTHING, {0}, HostError("two\nlines")))
