"""`multi` ports: any number of guests on one listening socket, each with a port of its own.

The port named NAME only listens and has no frames; its guests are NAME.1, NAME.2, … with the lowest free
number, and each is removed when its guest leaves.
"""

import logging
import socket
from dataclasses import replace
from typing import Final

from vbackend.ports.base import PortContext
from vbackend.ports.impairment import Impairment
from vbackend.ports.listener import Listener
from vbackend.ports.names import child_name
from vbackend.ports.spec import StreamSpec
from vbackend.ports.stream import StreamPort

__all__ = ["AcceptedPort", "MultiPort"]

log = logging.getLogger(__name__)

_MOST_PEERS: Final = 1024  # bounds memory; each can queue `queue-bytes`


class MultiPort(StreamPort):
    """Listens; makes an `AcceptedPort` for each peer."""

    spec: StreamSpec

    def __init__(self, context: PortContext, name: str, spec: StreamSpec) -> None:
        super().__init__(context, name, spec)
        self._listener: Listener | None = None
        self.peers: dict[str, AcceptedPort] = {}

    def create(self) -> None:
        """Nothing: frames belong to the peers' own ports."""

    async def open(self) -> None:
        self._listener = await Listener.open(self.spec.address, self._on_peer)
        self.state, self.detail = "listening", f"on {self._listener.place}"

    def quiesce(self) -> None:
        super().quiesce()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def set(
        self,
        *,
        up: bool | None = None,
        queue_frames: int | None = None,
        queue_bytes: int | None = None,
        rate: int | None = None,
        burst: int | None = None,
        impairment: Impairment | None = None,
    ) -> None:
        """For the peers there are and for those to come; each has the rate, and the bad line, for itself."""
        super().set(
            up=up,
            queue_frames=queue_frames,
            queue_bytes=queue_bytes,
            rate=rate,
            burst=burst,
            impairment=impairment,
        )
        for peer in self.peers.values():
            peer.set(
                up=up,
                queue_frames=queue_frames,
                queue_bytes=queue_bytes,
                rate=rate,
                burst=burst,
                impairment=impairment,
            )

    def on_end(self) -> None:
        """Never called: the sessions are the peers'."""

    def left(self, port: "AcceptedPort") -> None:
        """A peer's port is going."""
        self.peers.pop(port.name, None)

    def _on_peer(self, sock: socket.socket, peer: str) -> None:
        self.context.drain()  # frees the numbers of those that left
        if len(self.peers) >= _MOST_PEERS:
            sock.close()
            self.refuse(peer, f"{_MOST_PEERS} peers are connected")
            return
        name = child_name(self.name, self.context.taken())
        port = AcceptedPort(self, name)
        port.set(
            up=self.up,
            queue_frames=self.queue_frames,
            queue_bytes=self.queue_bytes,
            rate=self.rate or 0,
            burst=self.burst,
            impairment=self.impairment,
        )
        try:
            port.create()
        except OSError as error:
            sock.close()
            self.refuse(peer, f"no port for it: {error}")
            return
        self.sessions += 1
        self.peers[name] = port
        self.context.add(port)
        if not port.attach(sock, peer):
            self.context.drop(port)


class AcceptedPort(StreamPort):
    """The port of one peer; lives as long as its session."""

    def __init__(self, parent: MultiPort, name: str) -> None:
        spec = replace(parent.spec, multi=False, options=replace(parent.spec.options, name=name))
        super().__init__(parent.context, name, spec, parent=parent.name)
        self._parent_port: Final = parent

    async def open(self) -> None:
        """Nothing: its socket is there from the start."""

    def quiesce(self) -> None:
        super().quiesce()
        self._parent_port.left(self)

    def on_end(self) -> None:
        self._parent_port.last_end = f"{self.name}: {self.last_end}"
        self.context.drop(self)
