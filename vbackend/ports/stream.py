"""Stream ports: QEMU's `-netdev stream`, listening for a guest or dialling one.

The engine reads and writes the 4-byte lengths and the frames (protocols.md 1.1); here peers come and go.

    listening --peer--> connected --end--> listening         one peer at a time; a second is turned away
    dialling  --peer--> connected --end--> dialling          for ever, with the delays of backoff.py
"""

import asyncio
import errno
import logging
import os
import socket
from abc import abstractmethod
from typing import ClassVar, Final

from vbackend.errors import ConfigError
from vbackend.ports.backoff import Backoff
from vbackend.ports.base import Port, PortContext, PortKind
from vbackend.ports.listener import Listener
from vbackend.ports.sockets import SocketAddress, address_text, peer_text, resolve, tune_stream
from vbackend.ports.spec import PortSpec, StreamSpec, TcpAddress, UnixAddress
from vbackend.ports.unixsock import socket_address

__all__ = ["DialPort", "ListenPort", "OnePeerPort", "StreamPort"]

log = logging.getLogger(__name__)

_GRACE_S: Final = 0.1  # a guest that restarts may be back before the engine has seen its old connection end
_CONNECT_S: Final = 10.0  # the longest wait for a TCP host that does not answer
_LASTING_S: Final = 2.0  # a session this long was a real one: dial again with the shortest delay


class StreamPort(Port):
    """What listening, dialling and accepted ports share."""

    kind: ClassVar[PortKind] = "stream"

    def attach(self, sock: socket.socket, peer: str) -> bool:
        """Give a connected socket to the engine. False: it did not take it (logged); the socket is closed."""
        assert self.engine_port is not None, "attach comes after create"
        try:
            session = self.context.dataplane.attach_stream(self.engine_port, sock)
        except OSError as error:
            self.refuse(peer, f"the engine cannot take its socket: {error}")
            return False
        self.started(session, peer)
        return True


class OnePeerPort(Port):
    """Listens, and takes one peer at a time. What a peer's socket is to the engine is the subclass's business."""

    def __init__(self, context: PortContext, name: str, spec: PortSpec) -> None:
        super().__init__(context, name, spec)
        self._listener: Listener | None = None
        self._waiting: tuple[socket.socket, str, asyncio.TimerHandle] | None = None

    @abstractmethod
    def attach(self, sock: socket.socket, peer: str) -> bool:
        """Give a connected socket to the engine. False: it did not take it; the socket is closed."""

    def turn_away(self, sock: socket.socket, reason: str) -> None:  # noqa: ARG002 (what a guest sends has no words)
        """Close the connection of a peer that cannot be taken."""
        sock.close()

    async def listen(self, address: UnixAddress | TcpAddress, kind: socket.SocketKind) -> None:
        """Listen, from now on until `quiesce`."""
        self._listener = await Listener.open(address, self._on_peer, kind=kind)
        self._listening()

    def quiesce(self) -> None:
        super().quiesce()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._refuse_waiting("the port is closing")

    def on_end(self) -> None:
        self._listening()
        if self._waiting is not None:
            (sock, peer, timer), self._waiting = self._waiting, None
            timer.cancel()
            self.attach(sock, peer)

    def _listening(self) -> None:
        if self._listener is not None:
            self.state, self.detail = "listening", f"on {self._listener.place}"

    def _on_peer(self, sock: socket.socket, peer: str) -> None:
        self.context.drain()  # the present session's end may be reported already
        if self.session is None:
            self.attach(sock, peer)
        elif self._waiting is None:
            timer = asyncio.get_running_loop().call_later(_GRACE_S, self._refuse_waiting)
            self._waiting = (sock, peer, timer)
        else:
            self._refuse(sock, peer, self._taken())

    def _refuse_waiting(self, reason: str | None = None) -> None:
        if self._waiting is None:
            return
        (sock, peer, timer), self._waiting = self._waiting, None
        timer.cancel()
        self._refuse(sock, peer, reason or self._taken())

    def _refuse(self, sock: socket.socket, peer: str, reason: str) -> None:
        self.turn_away(sock, reason)
        self.refuse(peer, reason)

    def _taken(self) -> str:
        return (
            f"{self.session.peer} is connected" if self.session is not None else "another peer is connected"
        )


class ListenPort(StreamPort, OnePeerPort):
    """A guest whose QEMU dials."""

    spec: StreamSpec

    async def open(self) -> None:
        await self.listen(self.spec.address, socket.SOCK_STREAM)


class DialPort(StreamPort):
    """Connects to a QEMU that listens (`server=on`), again and again."""

    spec: StreamSpec

    def __init__(self, context: PortContext, name: str, spec: StreamSpec) -> None:
        super().__init__(context, name, spec)
        self._task: asyncio.Task[None] | None = None
        self._over = asyncio.Event()

    async def open(self) -> None:
        self.state = "dialling"
        self._task = asyncio.create_task(self._dial(), name=f"dial {self.name}")
        self._task.add_done_callback(self._stopped)

    def quiesce(self) -> None:
        super().quiesce()
        if self._task is not None:
            self._task.cancel()

    async def cleanup(self) -> None:
        if self._task is not None:
            await asyncio.wait([self._task])

    def on_end(self) -> None:
        self.state = "dialling"
        self._over.set()

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff(self.context.random)
        told = ""
        while True:
            try:
                sock, peer = await self._connect()
            except (OSError, ConfigError) as error:
                problem = _problem(error)
                if problem != told:
                    log.info("port %s: cannot connect to %s yet: %s", self.name, self.spec.text, problem)
                told = problem
            else:
                told, problem = "", "the connection ended"
                since = loop.time()
                self._over.clear()
                if self.attach(sock, peer):
                    await self._over.wait()
                if loop.time() - since >= _LASTING_S:
                    backoff.reset()
            delay_s = backoff.next_s()
            self.state, self.detail = "dialling", f"{problem}, again in {delay_s:.1f} s"
            await asyncio.sleep(delay_s)

    async def _connect(self) -> tuple[socket.socket, str]:
        address = self.spec.address
        if isinstance(address, UnixAddress):
            # Not loop.sock_connect: it takes EAGAIN, a full backlog, for a connection in progress.
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                tune_stream(sock)
                sock.connect(socket_address(address.path))
            except BaseException:
                sock.close()
                raise
            return sock, peer_text(sock)
        family, place = await resolve(address, socket.SOCK_STREAM)
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            tune_stream(sock)
            async with asyncio.timeout(_CONNECT_S):
                await asyncio.get_running_loop().sock_connect(sock, place)
            _refuse_myself(sock, place)
        except BaseException:
            sock.close()
            raise
        return sock, address_text(place)

    def _stopped(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.state, self.detail = "failed", f"dialling broke off: {error!r}"
            log.error("port %s: dialling broke off", self.name, exc_info=error)


def _refuse_myself(sock: socket.socket, place: SocketAddress) -> None:
    """TCP can meet itself (simultaneous open) when the port it dials is the one the kernel picked for it."""
    if sock.getsockname() == sock.getpeername():
        raise ConnectionRefusedError(errno.ECONNREFUSED, f"nobody listens on {address_text(place)}")


def _problem(error: OSError | ConfigError) -> str:
    if isinstance(error, BlockingIOError):
        return "its queue of connections is full"
    if isinstance(error, TimeoutError) and error.errno is None:
        return f"no answer in {_CONNECT_S:.0f} s"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return str(error)
