"""One capture: from ports of the engine to one client on a Unix socket, as a pcapng stream.

The life of a session: listen → one client connects → ports are tapped, the section header is sent → descriptions and
packets as they come, also of ports that join → the end → statistics. What ends it: the client (it closes, or says
anything), the count, `close`. All of them end the engine's sink, and what it holds is still sent.

Rule: a client that does not read costs the sink's bytes and one chunk, never traffic. Nobody who connects in time is
the end, too. The socket's path is gone as soon as a client has it.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from vbackend import __version__
from vbackend.capture.filter import Instruction
from vbackend.capture.pcapng import Interface, Statistics, description, section, statistics
from vbackend.dataplane import CaptureLane, Dataplane, NativeCapture
from vbackend.ports.unixsock import SocketIdentity, bind_unix, release_path

__all__ = ["CaptureSession", "Tapped"]

log = logging.getLogger(__name__)

_PATIENCE_S: Final = 5.0  # for a client to connect
_LAST_WORDS_S: Final = 0.5  # for it to take the rest when the backend stops
_CHUNK: Final = 256 << 10  # bytes read from the sink at once


Program = Sequence[Instruction] | None  # None: every packet


@dataclass(frozen=True, slots=True)
class Tapped:
    """An interface of a capture: what of which ports of the engine it has."""

    interface: Interface
    taps: tuple[tuple[int, CaptureLane], ...]
    program: Program = None


_Tap = tuple[CaptureLane, int, Interface, Program]  # of one port, for an interface by its number


class CaptureSession:
    """`wanted` says what is to be captured now; it is asked when the client comes, and whenever there were changes."""

    def __init__(
        self,
        dataplane: Dataplane,
        wanted: Callable[[], Awaitable[Sequence[Tapped]]],
        *,
        snaplen: int,
        count: int | None = None,
        expression: str | None = None,
        limit_bytes: int = 4 << 20,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._dataplane = dataplane
        self._wanted = wanted
        self._snaplen = snaplen
        self._expression = expression
        self._patience_s = patience_s
        self._sink = NativeCapture(0, limit_bytes=limit_bytes, count=count)
        self._numbers: dict[Interface, int] = {}
        self._tapped: dict[int, list[_Tap]] = {}
        self._changes = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def open(self, path: str) -> asyncio.Task[None]:
        """Listen on `path`, for its owner only. Returns the session's task. Errors as `bind_unix`."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            identity = bind_unix(listener, path, mode=0o600, backlog=1)
        except BaseException:
            listener.close()
            raise
        self._task = asyncio.create_task(self._run(listener, path, identity), name=f"capture {path}")
        return self._task

    def changed(self) -> None:
        """What is wanted may be something else now."""
        self._changes.set()

    async def close(self) -> None:
        """End in order: what was recorded is sent, if the client takes it soon. A second call does nothing."""
        self._sink.end()
        task, self._task = self._task, None  # a cancelled task refers to the session: let go of one another
        if task is not None:
            await asyncio.wait([task], timeout=_LAST_WORDS_S)
            task.cancel()
            await asyncio.wait([task])

    async def _run(self, listener: socket.socket, path: str, identity: SocketIdentity | None) -> None:
        try:
            client = await self._client(listener)
        finally:
            listener.close()
            release_path(path, identity)
        if client is None:
            return
        with client:
            try:
                await self._serve(client)
            except ConnectionError as error:
                log.debug("capture: the client is gone: %s", error)
            finally:
                self._untap()
        counts = self._sink.counts()
        captured, lost = (sum(one[what] for one in counts) for what in (1, 2))
        log.info("capture: ended after %d packets, %d were lost", captured, lost)

    async def _client(self, listener: socket.socket) -> socket.socket | None:
        """The first connection; None: nobody connects in time, or the session is closed before."""
        loop = asyncio.get_running_loop()
        accepting = asyncio.ensure_future(loop.sock_accept(listener))
        ended = asyncio.ensure_future(_readable(self._sink.fileno()))
        try:
            await asyncio.wait(
                (accepting, ended), timeout=self._patience_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not accepting.done():
                if not ended.done():
                    log.warning("capture: nobody fetched it")
                return None
            client, _ = accepting.result()
            client.setblocking(False)
            return client
        finally:
            for each in (accepting, ended):
                each.cancel()
            await asyncio.gather(accepting, ended, return_exceptions=True)

    async def _serve(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        started_ns = time.time_ns()
        await self._tap()
        leaving = asyncio.ensure_future(loop.sock_recv(client, 1))
        following = asyncio.create_task(self._follow())
        for each in (leaving, following):
            each.add_done_callback(lambda _: self._sink.end())
        try:
            await loop.sock_sendall(client, section(f"vbackend {__version__}"))
            while not self._sink.ended:
                await _readable(self._sink.fileno())
                await loop.sock_sendall(client, self._sink.read(_CHUNK))
            found = [Statistics(*counts) for counts in self._sink.counts()]
            filtered = self._expression is not None
            last = statistics(found, started_ns=started_ns, ended_ns=time.time_ns(), filtered=filtered)
            await loop.sock_sendall(client, last)
        finally:
            for each in (leaving, following):
                each.cancel()
            _, fault = await asyncio.gather(leaving, following, return_exceptions=True)
            if isinstance(fault, Exception):
                log.error("capture: ended early: %s", fault, exc_info=fault)

    async def _follow(self) -> None:
        while True:
            await self._changes.wait()
            await self._tap()

    async def _tap(self) -> None:
        """Tap what is wanted, and nothing else. Ports whose taps stay as they are miss nothing."""
        self._changes.clear()
        wanted: dict[int, list[_Tap]] = {}
        for each in await self._wanted():
            number = self._number_of(each.interface)
            if number is not None:
                for port, lane in each.taps:
                    wanted.setdefault(port, []).append((lane, number, each.interface, each.program))
        before, self._tapped = self._tapped, wanted
        for port in before.keys() | wanted.keys():
            if before.get(port) != wanted.get(port):
                self._retap(port, wanted.get(port, []))

    def _number_of(self, interface: Interface) -> int | None:
        """None: the capture has ended, or is full."""
        number = self._numbers.get(interface)
        if number is None:
            number = self._sink.add_interface(description(interface, self._snaplen, self._expression))
            if number is None:
                log.info("capture: %s joined too late, or as one too many", interface.name)
            else:
                self._numbers[interface] = number
        return number

    def _retap(self, port: int, taps: Sequence[_Tap]) -> None:
        with suppress(KeyError, RuntimeError):  # the port, or the whole engine, has gone
            self._dataplane.uncapture(port, self._sink)
            for lane, number, interface, program in taps:
                link = interface.link_type.name.lower()
                self._dataplane.capture(
                    port, self._sink, number, snaplen=self._snaplen, program=program, lane=lane, link=link
                )

    def _untap(self) -> None:
        self._sink.end()
        for port in self._tapped:
            self._retap(port, [])


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
