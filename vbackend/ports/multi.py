"""Ports for any number of guests: `multi` ports, on one listening socket; what other such ports share with them.

The port named NAME has no frames; its guests are NAME.1, NAME.2, … with the lowest free number, and each is removed
when its guest leaves.
"""

import socket
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Final

from vbackend.ports.base import Port, PortContext, PortKind
from vbackend.ports.impairment import Impairment
from vbackend.ports.listener import Listener
from vbackend.ports.names import child_name
from vbackend.ports.spec import PortSpec, StreamSpec
from vbackend.ports.stream import StreamPort

__all__ = ["AcceptedPort", "ChildPort", "MultiPort", "ParentPort"]

_MOST_PEERS: Final = 1024  # bounds memory; each can queue `queue-bytes`


class ParentPort(Port):
    """A port whose peers get ports of their own."""

    def __init__(self, context: PortContext, name: str, spec: PortSpec) -> None:
        super().__init__(context, name, spec)
        self.peers: dict[str, ChildPort] = {}

    def create(self) -> None:
        """Nothing: frames belong to the peers' own ports."""

    def set(
        self,
        *,
        up: bool | None = None,
        queue_frames: int | None = None,
        queue_bytes: int | None = None,
        rate: int | None = None,
        burst: int | None = None,
    ) -> None:
        """For the peers there are and for those to come; each has the rate for itself."""
        super().set(up=up, queue_frames=queue_frames, queue_bytes=queue_bytes, rate=rate, burst=burst)
        for peer in self.peers.values():
            peer.set(up=up, queue_frames=queue_frames, queue_bytes=queue_bytes, rate=rate, burst=burst)

    def impair(self, impairment: Impairment | Mapping[str, str]) -> None:
        """The same; each has a bad line of its own."""
        super().impair(impairment)
        for peer in self.peers.values():
            peer.impair(self.impairment)

    def on_end(self) -> None:
        """Never called: the sessions are the peers'."""

    def lacks_room(self) -> str:
        """Why no further peer can be taken; empty: it can."""
        self.context.drain()  # frees the numbers of those that left
        return f"{_MOST_PEERS} peers are connected" if len(self.peers) >= _MOST_PEERS else ""

    def enter(self, port: "ChildPort") -> None:
        """Create a peer's port and make it known. OSError: the engine does not make one."""
        port.set(up=self.up, queue_frames=self.queue_frames, queue_bytes=self.queue_bytes)
        port.rate, port.burst_wanted = self.rate, self.burst_wanted
        port.impair(self.impairment)
        port.create()
        self.sessions += 1
        self.peers[port.name] = port
        self.context.add(port)

    def left(self, port: "ChildPort") -> None:
        """A peer's port is going."""
        self.peers.pop(port.name, None)


class ChildPort(Port):
    """The port of one peer; lives as long as its session."""

    def __init__(self, parent: ParentPort, name: str, spec: PortSpec) -> None:
        super().__init__(parent.context, name, spec, parent=parent.name)
        self._parent_port: Final = parent

    async def open(self) -> None:
        """Nothing: its peer is there from the start."""

    def quiesce(self) -> None:
        super().quiesce()
        self._parent_port.left(self)

    def on_end(self) -> None:
        self._parent_port.last_end = f"{self.name}: {self.last_end}"
        self.context.drop(self)


class MultiPort(ParentPort):
    """Listens; makes an `AcceptedPort` for each peer."""

    kind: ClassVar[PortKind] = "stream"
    spec: StreamSpec

    def __init__(self, context: PortContext, name: str, spec: StreamSpec) -> None:
        super().__init__(context, name, spec)
        self._listener: Listener | None = None

    async def open(self) -> None:
        self._listener = await Listener.open(self.spec.address, self._on_peer)
        self.state, self.detail = "listening", f"on {self._listener.place}"

    def quiesce(self) -> None:
        super().quiesce()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _on_peer(self, sock: socket.socket, peer: str) -> None:
        if reason := self.lacks_room():
            sock.close()
            self.refuse(peer, reason)
            return
        port = AcceptedPort(self, child_name(self.name, self.context.taken()))
        try:
            self.enter(port)
        except OSError as error:
            sock.close()
            self.refuse(peer, f"no port for it: {error}")
            return
        if not port.attach(sock, peer):
            self.context.drop(port)


class AcceptedPort(ChildPort, StreamPort):
    """The port of one guest on a `multi` port."""

    def __init__(self, parent: MultiPort, name: str) -> None:
        options = replace(parent.spec.options, name=name)
        super().__init__(parent, name, replace(parent.spec, multi=False, options=options))
