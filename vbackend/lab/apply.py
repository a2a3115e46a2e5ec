"""Carries steps out, one after the other, starts of VMs side by side. All of them, or none: what was done is undone.

`World` is what can be changed; apply knows nothing else of it. Rules: a World's method that raises or is cancelled has
taken its own half back; an undo that fails is told, and the rest of the undo goes on; being cancelled is a failure like
others, and is waited out. Only what may take long is cancelled: the others are short, and most of them take away what
no half of them could give back.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, assert_never

from vbackend.errors import VbackendError, one_line
from vbackend.lab.plan import groups
from vbackend.lab.steps import (
    AddNic,
    AddSegment,
    JoinEnd,
    LeaveEnd,
    RemoveNic,
    RemoveSegment,
    SetCable,
    SetImpairment,
    StartCapture,
    StartService,
    StartVm,
    Step,
    StopCapture,
    StopService,
    StopVm,
    describe,
    inverse,
)

__all__ = ["ApplyError", "Failure", "OnProgress", "Progress", "World", "apply", "carry_out"]


log = logging.getLogger(__name__)

_LONG: Final = (StartVm, AddNic, StartService, StartCapture)  # they wait for others


class World(Protocol):
    """What steps change: one method for each kind."""

    async def add_segment(self, step: AddSegment, /) -> None: ...
    async def remove_segment(self, step: RemoveSegment, /) -> None: ...
    async def join_end(self, step: JoinEnd, /) -> None: ...
    async def leave_end(self, step: LeaveEnd, /) -> None: ...
    async def start_vm(self, step: StartVm, /) -> None: ...
    async def stop_vm(self, step: StopVm, /) -> None: ...
    async def add_nic(self, step: AddNic, /) -> None: ...
    async def remove_nic(self, step: RemoveNic, /) -> None: ...
    async def set_impairment(self, step: SetImpairment, /) -> None: ...
    async def set_cable(self, step: SetCable, /) -> None: ...
    async def start_service(self, step: StartService, /) -> None: ...
    async def stop_service(self, step: StopService, /) -> None: ...
    async def start_capture(self, step: StartCapture, /) -> None: ...
    async def stop_capture(self, step: StopCapture, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Progress:
    """What is told while steps are carried out. `undo`: `step` is the undo of one that was done."""

    step: Step
    state: Literal["begin", "done", "failed"]
    undo: bool = False
    error: str | None = None  # why it failed, one line


OnProgress = Callable[[Progress], None]
Failure = tuple[Step, str]  # and why, one line


class ApplyError(VbackendError):
    """A step failed; what was done before is undone, but for `left`.

    `failures`: each step that failed and why, the first one first; `left`: steps of the undo that failed, and why.
    """

    def __init__(self, failures: Sequence[Failure], left: Sequence[Failure] | None) -> None:
        told = "; ".join(f"step {describe(step)!r} failed: {why}" for step, why in failures)
        end = "what was done before " + ("stays" if left is None else "is undone")
        if left:
            end += ", except " + "; ".join(f"{describe(each)!r}: {why}" for each, why in left)
        super().__init__(f"{told}; {end}")
        self.failures = tuple(failures)
        self.left = tuple(left or ())


async def apply(
    steps: Sequence[Step], world: World, on_progress: OnProgress = lambda _: None, *, undo: bool = True
) -> None:
    """Carry out all steps, or none.

    `on_progress` is called before and after each step's effect, so it can keep account on disk; if it raises, that is
    a failure too. `undo` False: leave what was done. ApplyError: a step failed. CancelledError: after the undo.
    """
    done: list[Step] = []
    for group in groups(steps):
        failures: list[Failure] = []
        try:
            await _together(group, world, on_progress, done, failures)
        except BaseException:
            if undo:
                await _undo(done, world, on_progress)
            raise
        if failures:
            left, cancelled = await _undo(done, world, on_progress) if undo else (None, False)
            error = ApplyError(failures, left)
            if cancelled:
                raise asyncio.CancelledError(str(error)) from error
            raise error


async def _together(
    group: Sequence[Step],
    world: World,
    on_progress: OnProgress,
    done: list[Step],
    failures: list[Failure],
) -> None:
    """The first failure cancels the others of the group; all of them have ended when this returns."""

    async def one(step: Step) -> None:
        on_progress(Progress(step, "begin"))
        try:
            if isinstance(step, _LONG):
                await carry_out(step, world)
            else:
                await _to_its_end(carry_out(step, world))
        except asyncio.CancelledError:
            on_progress(Progress(step, "failed", error="cancelled"))
            raise
        except Exception as error:  # noqa: BLE001 (whatever it is, it is undone and told)
            failures.append((step, one_line(error)))
            for task in tasks:
                if task is not asyncio.current_task():
                    task.cancel()
            on_progress(Progress(step, "failed", error=one_line(error)))
        else:
            done.append(step)
            on_progress(Progress(step, "done"))

    tasks = [asyncio.ensure_future(one(step)) for step in group]
    cancelled = await _wait(tasks)
    broken = [error for task in tasks if not task.cancelled() and (error := task.exception()) is not None]
    if cancelled:
        raise asyncio.CancelledError
    if broken:
        raise broken[0]  # by on_progress
    if not failures:  # but the world may have cancelled itself
        failures += [(step, "cancelled") for step, task in zip(group, tasks, strict=True) if task.cancelled()]


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Whoever cancels this waits for it; `_wait` has not forgotten that it did."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait((task,))
    task.result()


async def _wait(tasks: Sequence[asyncio.Future[None]]) -> bool:
    """Wait for all to end. When cancelled meanwhile, cancel them and wait on; returns whether that happened."""
    cancelled = False
    while not all(task.done() for task in tasks):
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            cancelled = True
            for task in tasks:
                task.cancel()
    return cancelled


async def _undo(done: Sequence[Step], world: World, on_progress: OnProgress) -> tuple[list[Failure], bool]:
    """Returns what could not be undone and why, and whether it was tried to cancel the undo, which is not possible."""
    left: list[Failure] = []

    async def one(step: Step) -> None:
        try:
            on_progress(Progress(step, "begin", undo=True))
            await carry_out(step, world)
            on_progress(Progress(step, "done", undo=True))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 (told; the rest is undone all the same)
            left.append((step, one_line(error)))
            log.error("undo: step %r failed: %s", describe(step), one_line(error))
            on_progress(Progress(step, "failed", undo=True, error=one_line(error)))

    async def all_() -> None:
        for group in groups([inverse(step) for step in reversed(done)]):
            await asyncio.gather(*map(one, group), return_exceptions=True)

    task = asyncio.ensure_future(all_())
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
    task.result()
    return left, cancelled


def carry_out(step: Step, world: World) -> Coroutine[Any, Any, None]:
    """Call the World's method for `step`."""
    match step:
        case AddSegment():
            return world.add_segment(step)
        case RemoveSegment():
            return world.remove_segment(step)
        case JoinEnd():
            return world.join_end(step)
        case LeaveEnd():
            return world.leave_end(step)
        case StartVm():
            return world.start_vm(step)
        case StopVm():
            return world.stop_vm(step)
        case AddNic():
            return world.add_nic(step)
        case RemoveNic():
            return world.remove_nic(step)
        case SetImpairment():
            return world.set_impairment(step)
        case SetCable():
            return world.set_cable(step)
        case StartService():
            return world.start_service(step)
        case StopService():
            return world.stop_service(step)
        case StartCapture():
            return world.start_capture(step)
        case StopCapture():
            return world.stop_capture(step)
        case _:
            assert_never(step)
