"""A backend's life in the foreground: start, say ready, serve the control socket, end in order on a signal.

The shell around `Backend` that `vbackend run` and `vbackend exec` share. Not here: what the ports are
(ports/), what clients may ask (commands.py), the guest of `exec` (launch.py).

Rule: the control socket is claimed before the first device is touched and given up before the ports are.
"""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from vbackend import __version__
from vbackend.control.readiness import announce_ready, notify
from vbackend.control.server import ControlServer
from vbackend.control.signals import signals_end
from vbackend.errors import ConfigError, HostError
from vbackend.ports.spec import PortSpec, takes_many

if TYPE_CHECKING:
    from vbackend.backend import Backend

__all__ = [
    "Ending",
    "RunPlan",
    "checked_plan",
    "log_to_stderr",
    "run",
    "run_to_end",
    "running_backend",
    "unless_wanted",
]

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What is to run."""

    name: str
    segment: Literal["switch", "cable"]
    specs: tuple[PortSpec, ...]
    control: str | None  # path of the control socket; None: without
    queue_frames: int = 256
    workers: int = 1
    to_come: int = 0  # ports that will be adopted once it runs


def checked_plan(plan: RunPlan) -> RunPlan:
    """The plan, when its ports make sense together. ConfigError otherwise."""
    multi = [spec for spec in plan.specs if takes_many(spec)]
    count = len(plan.specs) + plan.to_come
    if plan.segment == "cable" and multi:
        raise ConfigError(
            f"port {multi[0].text!r} takes many guests, --cable joins exactly two; use --switch"
        )
    if plan.segment == "cable" and count != 2:
        raise ConfigError(f"--cable: joins exactly two ports, {count} given; give two, or use --switch")
    if plan.segment == "switch" and count < 2 and not multi and not plan.to_come:
        raise ConfigError(
            f"PORT: {count} given, nobody to talk to; give at least two, or one with 'multi' or of VDE"
        )
    return plan


@dataclass(slots=True)
class Ending:
    """Why and when the program ends. `wanted` is set by the first signal, a `quit`, or a fault."""

    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    fault: str = ""  # not empty: the exit status is 1

    def request(self) -> None:
        self.wanted.set()

    def fail(self, text: str) -> None:
        self.fault = self.fault or text
        self.wanted.set()


def log_to_stderr(level: int) -> None:
    """One line per record on stderr, with the time and nothing a journal would add anyway."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def run_to_end(life: Coroutine[Any, Any, T]) -> T:
    """Run on an event loop of its own. HostError: a second signal cut the clean-up short."""
    try:
        return asyncio.run(life)
    except asyncio.CancelledError:
        raise HostError("ended at the second signal; devices or socket files may be left") from None


async def run(plan: RunPlan, ready_fd: int | None, environ: Mapping[str, str]) -> None:
    """`vbackend run`: until one of `ending_signals` or `quit`. HostError when a fault of the engine ended it."""
    ending = Ending()
    with signals_end(ending.request):
        async with running_backend(plan, ending):
            if not ending.wanted.is_set():
                log.info("ready: %s %r, %d ports", plan.segment, plan.name, len(plan.specs))
                announce_ready(ready_fd, environ)
                await ending.wanted.wait()
            log.info("stopping")
            notify("STOPPING=1", environ)
    if ending.fault:
        raise HostError(ending.fault)


@asynccontextmanager
async def running_backend(plan: RunPlan, ending: Ending) -> "AsyncIterator[Backend]":
    """The backend with all its ports, and its control socket; both gone at the end.

    An end that is asked for while ports still open cancels that; the body must look at `ending.wanted` first.
    """
    from vbackend.backend import Backend

    backend = Backend(
        name=plan.name, segment=plan.segment, workers=plan.workers, queue_frames=plan.queue_frames
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(backend.stop)
        control = None
        if plan.control is not None:
            control = await stack.enter_async_context(ControlServer(plan.control, version=__version__))
        start = asyncio.create_task(backend.start(plan.specs, to_come=plan.to_come), name="start")
        await unless_wanted(start, ending.wanted)
        if not ending.wanted.is_set():
            backend.failure.add_done_callback(lambda failure: _failed(failure, ending))
            if control is not None:
                await control.serve(backend, ending.request)
                log.info("control socket: %s", control.path)
        yield backend


async def unless_wanted(task: asyncio.Task[None], wanted: asyncio.Event) -> None:
    """Wait for the task; when the end is wanted first, cancel it. Raises what the task raised."""
    waiter = asyncio.create_task(wanted.wait(), name="end while starting")
    try:
        await asyncio.wait((task, waiter), return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiter.cancel()
        if not task.done():
            task.cancel()
        (result,) = await asyncio.gather(task, return_exceptions=True)
    if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
        raise result


def _failed(failure: asyncio.Future[str], ending: Ending) -> None:
    if not failure.cancelled():
        ending.fail(failure.result())
