"""The control socket: a Unix socket (mode 0600) that speaks protocol.py's language.

Only moves bytes between clients, `Session`s and `perform`. Rule: a client can only hurt itself. One that
sends garbage, sends too much or does not read is disconnected; memory per client is bounded by
`_MAX_UNREAD`, one read and one message.
"""

import asyncio
import logging
import os
import select
import socket
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Self

from vbackend.control.api import ControlledBackend, Event
from vbackend.control.commands import Command, CommandNotFoundError, Desk, perform
from vbackend.control.place import make_runtime_dir
from vbackend.control.protocol import (
    Call,
    End,
    ErrorClass,
    Message,
    Send,
    Session,
    encode,
    event_message,
)
from vbackend.errors import ConfigError, HostError, VbackendError, one_line
from vbackend.ports.unixsock import SocketIdentity, bind_unix, release_path

__all__ = ["ControlServer"]

log = logging.getLogger(__name__)

_MAX_CLIENTS: Final = 64
_MAX_UNREAD: Final = 4 << 20  # bytes of replies and events that wait for one client
_HIGH_WATER: Final = 256 << 10  # above, the client's next command waits until it has read
_READ_PATIENCE: Final = 30.0  # seconds a client may leave a reply above the high water unread
_READ_SIZE: Final = 64 << 10
_LOOK_AGAIN: Final = 0.25  # seconds between looks whether a client is still there
_CLOSE_PATIENCE: Final = 0.5  # seconds for the last replies when the server stops


class ControlServer:
    """Serves one backend. `open` claims the path, `serve` begins to answer, `close` takes everything away."""

    def __init__(self, path: str, *, version: str) -> None:
        self.path: Final = path
        self._version = version
        self._listener: socket.socket | None = None
        self._identity: SocketIdentity | None = None
        self._server: asyncio.Server | None = None
        self._clients: dict[asyncio.Task[None], _Client] = {}
        self._desk: Desk | None = None
        self._unsubscribe: Callable[[], None] | None = None

    async def __aenter__(self) -> Self:
        self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def open(self) -> None:
        """Claim the path and listen; clients wait until `serve`.

        ConfigError: a living process has it. HostError, OSError: the host refuses.
        """
        make_runtime_dir(self.path, os.environ)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._identity = bind_unix(listener, self.path, mode=0o600, backlog=16)
        except FileNotFoundError:
            listener.close()
            raise HostError(
                f"control socket {self.path}: its directory does not exist; make it first"
            ) from None
        except BaseException:
            listener.close()
            raise
        self._listener = listener

    async def serve(
        self,
        backend: ControlledBackend,
        on_quit: Callable[[], None],
        more: Mapping[str, Command] | None = None,
    ) -> None:
        """Answer clients from now on. `on_quit` is called when one sends `quit`; `more`: further commands."""
        assert self._listener is not None, "serve comes after open"
        self._desk = Desk(backend, on_quit, self.path, more or {})
        self._unsubscribe = backend.subscribe(self.tell)
        self._server = await asyncio.start_unix_server(self._accepted, sock=self._listener)
        self._listener = None

    async def close(self) -> None:
        """End all sessions and remove the socket file; a second call does nothing."""
        release_path(self.path, self._identity)
        self._identity = None
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._server is not None:
            self._server.close()
            self._server = None
        self._desk = None
        tasks = list(self._clients)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def tell(self, event: Event) -> None:
        """Send an event to every client."""
        line = encode(event_message(event.name, event.data, event.time))
        for client in self._clients.values():
            if client.session.negotiated:
                client.write(line)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "asyncio calls this in a task of its own"
        if self._desk is None:  # it came while the server closed
            writer.close()
            return
        client = _Client(Session(self._version), self._desk, reader, writer)
        try:
            if len(self._clients) >= _MAX_CLIENTS:
                log.warning("control: a client was turned away: %d are connected", _MAX_CLIENTS)
                return
            self._clients[task] = client
            await client.run()
        except (ConnectionError, TimeoutError) as error:
            log.debug("control: a client's connection ended: %s", error)
        except (
            asyncio.CancelledError
        ):  # by `close` or `_watch`: an end in order, and nobody waits for the result
            log.debug("control: the server stops, or the client has hung up")
        finally:
            self._clients.pop(task, None)
            await client.close()


class _Client:
    def __init__(
        self, session: Session, desk: Desk, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.session = session
        self._desk = desk
        self._reader = reader
        self._writer = writer
        writer.transport.set_write_buffer_limits(high=_HIGH_WATER)

    async def run(self) -> None:
        """Until the client leaves or misbehaves."""
        await self._send(self.session.greeting())
        while data := await self._reader.read(_READ_SIZE):
            for action in self.session.receive(data):
                match action:
                    case Send(message):
                        await self._send(message)
                    case Call():
                        await self._send(await self._answer(action))
                    case End(reason):
                        log.warning("control: a client's session ended: %s", reason)
                        return

    def write(self, line: bytes) -> None:
        """Send without waiting; a client that has left too much unread is disconnected."""
        transport = self._writer.transport
        if transport.is_closing():
            return
        if transport.get_write_buffer_size() + len(line) > _MAX_UNREAD:
            log.warning("control: a client was disconnected: it does not read")
            transport.abort()
            return
        self._writer.write(line)

    async def close(self) -> None:
        """Let what is written go out for a moment, then close."""
        try:
            async with asyncio.timeout(_CLOSE_PATIENCE):
                self._writer.close()
                await self._writer.wait_closed()
        except (ConnectionError, TimeoutError):
            self._writer.transport.abort()

    async def _answer(self, call: Call) -> Message:
        """CancelledError: the client has hung up, and a command that was only for it has been cancelled."""
        command, task = self._desk.command(call.name), asyncio.current_task()
        if command is None or not command.for_client or task is None:
            return await _answer(self._desk, call)
        watching = asyncio.create_task(self._watch(call.name, task), name=f"control: client of {call.name}")
        try:
            return await _answer(self._desk, call)
        finally:
            watching.cancel()

    async def _watch(self, command: str, task: asyncio.Task[None]) -> None:
        while not self._has_hung_up():  # noqa: ASYNC110 (of the kernel's state, of which asyncio tells nothing)
            await asyncio.sleep(_LOOK_AGAIN)
        log.warning("control: %s is cancelled: its client has hung up", command)
        task.cancel()

    def _has_hung_up(self) -> bool:
        """Whether the client has closed its socket. One that has only said its last word still gets its answer."""
        if self._writer.is_closing():
            return True
        poll = select.poll()
        poll.register(self._writer.get_extra_info("socket").fileno(), 0)
        return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))

    async def _send(self, message: Message) -> None:
        self.write(encode(message))
        async with asyncio.timeout(_READ_PATIENCE):
            await self._writer.drain()


async def _answer(desk: Desk, call: Call) -> Message:
    try:
        return call.result(await perform(desk, call.name, call.arguments))
    except CommandNotFoundError as error:
        return call.error(ErrorClass.COMMAND_NOT_FOUND, str(error))
    except ConfigError as error:
        return call.error(ErrorClass.CONFIG, str(error))
    except (VbackendError, OSError) as error:
        return call.error(ErrorClass.GENERIC, one_line(error))
    except Exception:
        # A defect in one command must not take the other ports' traffic down; the log has the trace.
        log.exception("control: command %s failed", call.name)
        return call.error(ErrorClass.GENERIC, f"{call.name}: internal error, see vbackend's log")
