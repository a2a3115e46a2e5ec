"""One capture: from ports of the engine to one client on a Unix socket, as a pcapng stream.

The life of a session: listen → one client connects → ports are tapped, head is sent → packets as they come →
the end → statistics. What ends it: the client (it closes, or says anything), the count, `close`. All of them end the
engine's sink, and what it holds is still sent.

Rule: a client that does not read costs the sink's bytes and one chunk, never traffic. Nobody who connects in time is
the end, too. The socket's path is gone as soon as a client has it.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from vbackend import __version__
from vbackend.capture.filter import Instruction
from vbackend.capture.pcapng import Interface, Statistics, head, statistics
from vbackend.dataplane import Dataplane, NativeCapture
from vbackend.ports.unixsock import SocketIdentity, bind_unix, release_path

__all__ = ["CaptureSession", "Tapped"]

log = logging.getLogger(__name__)

_PATIENCE_S: Final = 5.0  # for a client to connect
_LAST_WORDS_S: Final = 0.5  # for it to take the rest when the backend stops
_CHUNK: Final = 256 << 10  # bytes read from the sink at once


@dataclass(frozen=True, slots=True)
class Tapped:
    """A port to capture."""

    engine_port: int
    interface: Interface
    program: Sequence[Instruction] | None  # None: every packet


class CaptureSession:
    """Made by `open`; `finished` is done when all is taken away again."""

    def __init__(
        self,
        dataplane: Dataplane,
        ports: Sequence[Tapped],
        *,
        snaplen: int,
        count: int | None = None,
        expression: str | None = None,
        limit_bytes: int = 4 << 20,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._dataplane = dataplane
        self._ports = ports
        self._snaplen = snaplen
        self._expression = expression
        self._patience_s = patience_s
        self._sink = NativeCapture(len(ports), limit_bytes=limit_bytes, count=count)
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
        captured, lost = (sum(each) for each in list(zip(*counts, strict=True))[1:])
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
        self._tap()
        leaving = asyncio.ensure_future(loop.sock_recv(client, 1))
        leaving.add_done_callback(lambda _: self._sink.end())
        try:
            interfaces = [port.interface for port in self._ports]
            application = f"vbackend {__version__}"
            await loop.sock_sendall(client, head(application, interfaces, self._snaplen, self._expression))
            while not self._sink.ended:
                await _readable(self._sink.fileno())
                await loop.sock_sendall(client, self._sink.read(_CHUNK))
            found = [Statistics(*counts) for counts in self._sink.counts()]
            filtered = self._expression is not None
            last = statistics(found, started_ns=started_ns, ended_ns=time.time_ns(), filtered=filtered)
            await loop.sock_sendall(client, last)
        finally:
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)

    def _tap(self) -> None:
        for number, port in enumerate(self._ports):
            with suppress(KeyError, RuntimeError):  # gone before the client came: its interface stays empty
                self._dataplane.capture(
                    port.engine_port,
                    self._sink,
                    number,
                    snaplen=self._snaplen,
                    program=port.program,
                    link=port.interface.link_type.name.lower(),
                )

    def _untap(self) -> None:
        self._sink.end()
        for port in self._ports:
            with suppress(KeyError, RuntimeError):  # the port, or the whole engine, has gone
                self._dataplane.uncapture(port.engine_port, self._sink)


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
