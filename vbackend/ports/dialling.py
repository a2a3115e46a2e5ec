"""Ports that connect to a peer that listens, again and again.

Not here: what a peer's socket becomes; that is the subclass's business. Rule: it dials for ever, with the delays of
backoff.py, and says why there is no connection yet.
"""

import asyncio
import errno
import logging
import os
import socket
from abc import abstractmethod
from contextlib import suppress
from typing import Final

from vbackend.errors import ConfigError
from vbackend.ports.backoff import Backoff
from vbackend.ports.base import Port, PortContext
from vbackend.ports.sockets import SocketAddress, address_text, peer_text, resolve, tune_stream
from vbackend.ports.spec import PortSpec, TcpAddress, UnixAddress
from vbackend.ports.unixsock import socket_address

__all__ = ["DiallingPort"]

log = logging.getLogger(__name__)

_CONNECT_S: Final = 10.0  # the longest wait for a TCP host that does not answer
_LASTING_S: Final = 2.0  # a session this long was a real one: dial again with the shortest delay


class DiallingPort(Port):
    """One peer at a time; after its end the next."""

    def __init__(self, context: PortContext, name: str, spec: PortSpec) -> None:
        super().__init__(context, name, spec)
        self._task: asyncio.Task[None] | None = None
        self._over = asyncio.Event()
        self._hurry = asyncio.Event()

    def dial_now(self) -> None:
        """Try again without further delay: the peer has just begun to listen."""
        self._hurry.set()

    @property
    @abstractmethod
    def address(self) -> UnixAddress | TcpAddress:
        """Where to connect to."""

    @abstractmethod
    def attach(self, sock: socket.socket, peer: str) -> bool:
        """Take a connected socket. False: it cannot be taken; the socket is closed."""

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
            with suppress(TimeoutError):
                async with asyncio.timeout(delay_s):  # wait_for may lose a cancellation (Python 3.11)
                    await self._hurry.wait()
                backoff.reset()
            self._hurry.clear()

    async def _connect(self) -> tuple[socket.socket, str]:
        address = self.address
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
