"""Stream ports: QEMU's `-netdev stream`, listening for a guest or dialling one.

The engine reads and writes the 4-byte lengths and the frames (protocols.md 1.1); here peers come and go.

    listening --peer--> connected --end--> listening         one peer at a time; a second is turned away
    dialling  --peer--> connected --end--> dialling          for ever (dialling.py)
"""

import asyncio
import socket
from abc import abstractmethod
from typing import ClassVar, Final

from vbackend.ports.base import Port, PortContext, PortKind
from vbackend.ports.dialling import DiallingPort
from vbackend.ports.listener import Listener
from vbackend.ports.spec import PortSpec, StreamSpec, TcpAddress, UnixAddress

__all__ = ["DialPort", "ListenPort", "OnePeerPort", "StreamPort"]

_GRACE_S: Final = 0.1  # a guest that restarts may be back before the engine has seen its old connection end


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


class DialPort(StreamPort, DiallingPort):
    """Connects to a QEMU that listens (`server=on`)."""

    spec: StreamSpec

    @property
    def address(self) -> UnixAddress | TcpAddress:
        return self.spec.address
