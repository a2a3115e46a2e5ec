"""The carrier of all links of a running lab: backend events and time in, what guests and devices are told out.

The shell around carrier.py. An end on a switch has carrier while it is joined, one of a cable as CableCarrier says, and
one that is joined to nothing has none. Telling runs in the background, one after the other for each end, always the
newest word: a guest that is slow to listen delays nobody else.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Literal

from vbackend.errors import VbackendError
from vbackend.lab.carrier import CableCarrier, SetCarrier
from vbackend.lab.steps import CableState
from vbackend.ports.impairment import read_duration

__all__ = ["Carriers", "Tell"]

log = logging.getLogger(__name__)

_PATIENCE_S: Final = 5.0

Tell = Callable[[str, bool], Awaitable[None]]  # an end, and whether it has carrier


class Carriers:
    """`tell` brings the word to the end; what it raises is logged, for the next event brings the next word."""

    def __init__(self, tell: Tell) -> None:
        self._tell: Final = tell
        self._cables: Final[dict[str, CableCarrier]] = {}  # by segment
        self._segments: Final[dict[str, str]] = {}  # of every end that is joined
        self._present: Final[set[str]] = set()  # ends whose port is connected
        self._words: Final[dict[str, bool]] = {}  # the newest one for each end that is not brought yet
        self._tellers: Final[dict[str, asyncio.Task[None]]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add_segment(self, name: str, kind: Literal["switch", "cable"], state: CableState) -> None:
        if kind == "cable":
            self._cables[name] = CableCarrier(up=state.up, hold=_hold(state))

    def remove_segment(self, name: str) -> None:
        self._cables.pop(name, None)

    def set_cable(self, name: str, state: CableState) -> None:
        self._obey(self._cables[name].set_cable(self._now(), up=state.up, hold=_hold(state)))

    def join(self, segment: str, end: str) -> None:
        """The end's port is open; whether it is connected is told by `connected`."""
        self._segments[end] = segment
        if (cable := self._cables.get(segment)) is None:
            self._say(end, True)
            return
        self._obey(cable.join(self._now(), end))
        if end in self._present:
            self._obey(cable.set_present(self._now(), end, True))

    def leave(self, end: str) -> None:
        """The end's port is closed, or about to be."""
        self._present.discard(end)
        if (segment := self._segments.pop(end, None)) is None:
            return
        if (cable := self._cables.get(segment)) is None:
            self._say(end, False)
        else:
            self._obey(cable.leave(self._now(), end))

    def connected(self, port: str, present: bool) -> None:
        """The session of a port began or ended. It may be no end, or one that is just being joined."""
        (self._present.add if present else self._present.discard)(port)
        if (segment := self._segments.get(port)) is None:
            return
        if (cable := self._cables.get(segment)) is not None:
            self._obey(cable.set_present(self._now(), port, present))
        elif present:
            self._say(port, True)

    def again(self, end: str) -> None:
        """What is behind an end is new: it is told what the old one was."""
        segment = self._segments.get(end)
        if segment is None:
            self._say(end, False)
        elif (cable := self._cables.get(segment)) is None:
            self._say(end, True)
        elif (told := cable.told(end)) is not None:
            self._say(end, told)

    async def settle(self) -> None:
        """Wait until all words of now are brought, but not long for one who does not listen."""
        if self._tellers:
            await asyncio.wait(self._tellers.values(), timeout=_PATIENCE_S)

    async def close(self) -> None:
        """Tell nobody anything more."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tellers.values():
            task.cancel()
        await asyncio.gather(*self._tellers.values(), return_exceptions=True)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _obey(self, commands: list[SetCarrier]) -> None:
        for command in commands:
            self._say(command.end, command.up)
        if self._timer is not None:
            self._timer.cancel()
        due = [when for cable in self._cables.values() if (when := cable.deadline()) is not None]
        self._timer = asyncio.get_running_loop().call_at(min(due), self._tick) if due else None

    def _tick(self) -> None:
        self._timer = None
        self._obey([command for cable in self._cables.values() for command in cable.tick(self._now())])

    def _say(self, end: str, up: bool) -> None:
        self._words[end] = up
        if end not in self._tellers:
            self._tellers[end] = asyncio.create_task(self._bring(end), name=f"carrier of {end}")

    async def _bring(self, end: str) -> None:
        try:
            while end in self._words:
                up = self._words.pop(end)
                try:
                    await self._tell(end, up)
                except (VbackendError, OSError, TimeoutError) as error:
                    log.warning(
                        "%s: cannot be told that it has %s carrier: %s", end, "a" if up else "no", error
                    )
        finally:
            self._tellers.pop(end, None)


def _hold(state: CableState) -> float | None:
    return None if state.carrier is False else read_duration("carrier", state.carrier) / 1e6
