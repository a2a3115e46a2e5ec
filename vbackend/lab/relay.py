"""A guest's agent for clients of a lab's daemon: what one says to its socket is said to the agent, and back.

    vm-attach → its own socket listens → one client connects → commands, any number → it hangs up: all are killed

The lines are those of vbackend/qemu/agent_lines.py. Rule: room is given by who uses the bytes, and passed on here: a
slow client makes its commands wait, not others', and what is kept for it is bounded by its windows. A client that does
not keep to them is disconnected.
"""

import asyncio
import logging
import socket
from dataclasses import replace
from typing import Final

from vbackend.errors import HostError, PeerError, VbackendError, one_line
from vbackend.ports.unixsock import SocketIdentity, bind_unix, release_path
from vbackend.qemu.agent import Agent
from vbackend.qemu.agent_command import Command
from vbackend.qemu.agent_lines import (
    WINDOW,
    Data,
    Drop,
    End,
    Fail,
    Hello,
    Line,
    Lines,
    Room,
    Run,
    Signal,
    encode,
)

__all__ = ["Relays"]

log = logging.getLogger(__name__)

_PATIENCE_S: Final = 5.0  # for a client to connect
_CLIENTS_MAX: Final = 64
_COMMANDS_MAX: Final = 16  # of one client, at a time
_READ_SIZE: Final = 1 << 16


class Relays:
    """Those that run; their sockets lie beside the path `beside`."""

    def __init__(self, beside: str) -> None:
        self._beside: Final = beside
        self._running: Final[set[asyncio.Task[None]]] = set()
        self._made = 0

    def start(self, agent: Agent) -> str:
        """Offer an agent to one client; returns the path of the socket. HostError: too many clients are there."""
        if len(self._running) >= _CLIENTS_MAX:
            raise HostError(f"{_CLIENTS_MAX} clients run commands in guests already; wait for one to end")
        self._made += 1
        path = f"{self._beside}.exec-{self._made}"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            identity = bind_unix(listener, path, mode=0o600, backlog=1)
        except BaseException:
            listener.close()
            raise
        task = asyncio.create_task(_offer(agent, listener, path, identity), name=f"commands of {path}")
        self._running.add(task)
        task.add_done_callback(self._done)
        return path

    async def close(self) -> None:
        """Disconnect all clients; their commands are killed. A second call does nothing."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s: ended: %s", task.get_name(), error, exc_info=error)


async def _offer(agent: Agent, listener: socket.socket, path: str, identity: SocketIdentity | None) -> None:
    try:
        client, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(listener), _PATIENCE_S)
    except TimeoutError:
        log.warning("%s: nobody connected", path)
        return
    finally:
        listener.close()
        release_path(path, identity)
    with client:
        client.setblocking(False)
        try:
            await _Client(agent, client).serve()
        except (ConnectionError, VbackendError) as error:
            log.warning("%s: ended: %s", path, one_line(error))


class _Client:
    def __init__(self, agent: Agent, sock: socket.socket) -> None:
        self._agent: Final = agent
        self._sock: Final = sock
        self._running: Final[dict[int, tuple[Command, asyncio.Task[None]]]] = {}  # by the client's numbers
        self._sending: Final = asyncio.Lock()

    async def serve(self) -> None:
        """Until the client hangs up. PeerError: it broke the rules."""
        lines, loop = Lines(), asyncio.get_running_loop()
        try:
            await self._send(Hello())
            while data := await loop.sock_recv(self._sock, _READ_SIZE):
                for line in lines.feed(data):
                    await self._obey(line)
        finally:
            running = list(self._running.values())
            for command, task in running:
                task.cancel()
                command.drop()
            await asyncio.gather(*(task for _, task in running), return_exceptions=True)

    async def _obey(self, line: Line) -> None:
        match line:
            case Run():
                await self._run(line)
            case Drop(None):
                for command, _ in self._running.values():
                    command.drop()
            case Data(job) | Room(job) | Signal(job) | Drop(int(job)) if job in self._running:
                await _tell(self._running[job][0], line)

    async def _run(self, line: Run) -> None:
        if line.job in self._running or len(self._running) >= _COMMANDS_MAX:
            raise PeerError(f"its command {line.job} is one too many")
        try:
            command = self._agent.open(
                line.command, has_input=line.has_input, window=min(line.window, WINDOW)
            )
        except VbackendError as error:
            await self._send(Fail(line.job, one_line(error)))
            return
        task = asyncio.create_task(self._answer(line.job, command), name="output of a command in a guest")
        self._running[line.job] = command, task

    async def _answer(self, job: int, command: Command) -> None:
        """Send all that comes of a command."""
        try:
            last = False
            while not last:
                line = await command.next()
                last = isinstance(line, End)
                if last:
                    self._running.pop(job)
                await self._send(replace(line, job=job))
        except PeerError as error:
            await self._send(Fail(job, one_line(error)))
        except OSError as error:
            log.debug("a client is gone: %s", error)  # `serve` sees that, too
        finally:
            command.drop()
            self._running.pop(job, None)

    async def _send(self, line: Line) -> None:
        async with self._sending:
            await asyncio.get_running_loop().sock_sendall(self._sock, encode(line))


async def _tell(command: Command, line: Data | Room | Signal | Drop) -> None:
    match line:
        case Data(_, "in", data):
            await command.send(data)
        case Room(_, stream, count):
            command.grant(stream, count)
        case Signal(_, number):
            command.signal(number)
        case Drop():
            command.drop()
