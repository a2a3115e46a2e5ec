"""One command that runs in a guest: its streams, each with as much on its way as there is room for.

`carry` is all that most need; who stands between a guest and its user (vbackend/lab/relay.py) has `next`, `send` and
`grant`. Not here: the socket, and which commands there are (agent.py).
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Literal, Protocol

from vbackend.errors import PeerError, VbackendError
from vbackend.qemu.agent_lines import CHUNK, WINDOW, Data, Drop, End, Fail, Line, Room, Signal, Stream

__all__ = ["AgentError", "Command", "Sink", "Source", "ToGuest"]

Source = Callable[[int], Awaitable[bytes]]  # at most so many bytes of input; none at its end
Sink = Callable[[Literal["out", "err"], bytes], Awaitable[None]]  # takes output


class AgentError(PeerError):
    """The guest went away, restarted, or answered with something that is no answer."""


class ToGuest(Protocol):
    """What a command needs of its agent."""

    def tell(self, line: Line) -> None:
        """Say this to the guest, when it listens."""

    async def wait_sendable(self) -> None:
        """Wait until the guest has taken most of what it was told, or is gone."""

    def forget(self, job: int) -> None:
        """This command is over."""


class Command:
    """At most one task at a time is in `carry` or `next`, and one in `send`."""

    def __init__(self, agent: ToGuest, job: int, window: int) -> None:
        """`window`: bytes of stdout, and of stderr, that it may send before there is more room."""
        self.job: Final = job
        self._agent: Final = agent
        self._window: Final = window
        self._waiting: Final = {"out": bytearray(), "err": bytearray()}
        self._granted: Final = {"out": window, "err": window}
        self._owed: Final = {"out": 0, "err": 0}
        self._room = 0  # for input
        self._told_room = 0  # of it, what `next` has not returned yet
        self._end: End | AgentError | None = None
        self._broken: OSError | VbackendError | None = None  # what ended the input early
        self._news: Final = asyncio.Event()
        self._may_send: Final = asyncio.Event()

    async def carry(self, source: Source | None, sink: Sink) -> int:
        """Feed input and hand output on until the end; returns the status. It is not dropped when this is cancelled.

        AgentError: the guest is gone, or cannot start it; and what `source` (OSError, VbackendError) and `sink` raise.
        """
        feeding = None if source is None else asyncio.create_task(self._feed(source), name="input of a guest")
        try:
            while True:
                match await self.next():
                    case Data(_, "out" | "err" as stream, data):
                        await sink(stream, data)
                        self.grant(stream, len(data))
                    case End(_, status):
                        return status
        finally:
            if feeding is not None:
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)

    async def next(self) -> Data | Room | End:
        """What comes next; after `End` it comes again. AgentError: the guest is gone, or cannot start it."""
        while True:
            self._news.clear()
            if self._broken is not None:
                raise self._broken
            if self._told_room:
                count, self._told_room = self._told_room, 0
                return Room(self.job, "in", count)
            for stream in ("out", "err"):
                if buffer := self._waiting[stream]:
                    data = bytes(buffer[:CHUNK])
                    del buffer[:CHUNK]
                    return Data(self.job, stream, data)
            if isinstance(self._end, AgentError):
                raise self._end
            if self._end is not None:
                return self._end
            await self._news.wait()

    def grant(self, stream: Stream, count: int) -> None:
        """So much of its output was handed on: there is room again. Never more than the window."""
        if stream == "in" or self._end is not None:
            return
        there = self._granted[stream] + self._owed[stream] + len(self._waiting[stream])
        self._owed[stream] += min(count, self._window - there)
        if self._owed[stream] * 4 >= self._window:
            self._granted[stream] += self._owed[stream]
            self._agent.tell(Room(self.job, stream, self._owed[stream]))
            self._owed[stream] = 0

    async def send(self, data: bytes) -> None:
        """Input, of which b"" is the end. AgentError: more than there is room for."""
        if self._end is not None:
            return
        if len(data) > self._room:
            raise AgentError(f"{len(data)} bytes of input, where there is room for {self._room}")
        self._room -= len(data)
        await self._agent.wait_sendable()
        for start in range(0, len(data), CHUNK):
            self._agent.tell(Data(self.job, "in", data[start : start + CHUNK]))
        if not data:
            self._agent.tell(Data(self.job, "in", b""))

    def signal(self, number: int) -> None:
        """To the command and the processes of its group; one that has ended stays ended."""
        if self._end is None:
            self._agent.tell(Signal(self.job, number))

    def drop(self) -> None:
        """Kill it, unless it has ended; nothing more comes of it."""
        if self._end is None:
            self._agent.tell(Drop(self.job))
            self.take(Fail(self.job, "it was dropped"))

    def take(self, line: Data | Room | End | Fail) -> None:
        """For the agent: what the guest says of this command. AgentError: what it must not say."""
        match line:
            case Data(_, "out" | "err" as stream, data):
                self._granted[stream] -= len(data)
                if self._granted[stream] < 0:
                    raise AgentError("more output than there was room for")
                self._waiting[stream] += data
            case Room(_, "in", count):
                count = min(count, WINDOW - self._room)
                self._room += count
                self._told_room += count
                self._may_send.set()
            case End():
                self._finish(line)
            case Fail(_, why):
                self._finish(AgentError(why))
        self._news.set()

    def _finish(self, end: End | AgentError) -> None:
        if self._end is None:
            self._end = end
            self._agent.forget(self.job)

    async def _feed(self, source: Source) -> None:
        try:
            data = b"-"
            while data:
                while not self._room:
                    self._may_send.clear()
                    await self._may_send.wait()
                data = await source(min(self._room, CHUNK))
                await self.send(data)
        except (OSError, VbackendError) as error:  # of `source`, so for the caller of `carry`
            self._broken = error
            self._news.set()
