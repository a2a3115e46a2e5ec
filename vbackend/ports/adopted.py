"""Ports on a socket that was connected before vbackend saw it: QEMU's `fd=` netdevs, `vbackend exec`.

There is no way to get the peer back: when its session ends the port stays, down, until it is removed.
"""

import os
import socket
from abc import abstractmethod
from typing import ClassVar, Literal, assert_never

from vbackend.errors import ConfigError
from vbackend.ports.base import Port, PortContext, PortKind
from vbackend.ports.sockets import DGRAM_BUFFER, peer_pid, peer_text, raise_buffers, tune_stream
from vbackend.ports.spec import ChannelSpec

__all__ = ["AdoptedDgram", "AdoptedPort", "AdoptedStream", "adopted_port"]


def adopted_port(
    context: PortContext,
    name: str,
    kind: Literal["stream", "dgram"],
    sock: socket.socket,
    spec: ChannelSpec,
) -> "AdoptedPort":
    """The port for a connected socket of this kind; it owns the socket from now on."""
    match kind:
        case "stream":
            return AdoptedStream(context, name, sock, spec)
        case "dgram":
            return AdoptedDgram(context, name, sock, spec)
        case _:
            assert_never(kind)


class AdoptedPort(Port):
    """What both kinds share."""

    def __init__(self, context: PortContext, name: str, sock: socket.socket, spec: ChannelSpec) -> None:
        super().__init__(context, name, spec)
        self._sock = sock

    async def open(self) -> None:
        assert self.engine_port is not None, "open comes after create"
        try:
            self._sock.getpeername()
        except OSError as error:
            raise ConfigError(f"port {self.name!r}: its socket is not connected ({error.strerror})") from None
        made_here = self._sock.family == socket.AF_UNIX and peer_pid(self._sock) == os.getpid()
        peer = "a passed socket" if made_here else peer_text(self._sock)  # a pair's peer is who made the pair
        self.started(self._attach(self.engine_port), peer)

    async def cleanup(self) -> None:
        self._sock.close()  # does nothing once the engine owns the descriptor

    def on_end(self) -> None:
        self.state, self.detail = "down", "its peer left for good: the socket was handed over connected"

    @abstractmethod
    def _attach(self, port: int) -> int:
        """Start the engine's session on the socket; returns its number."""


class AdoptedStream(AdoptedPort):
    kind: ClassVar[PortKind] = "stream"

    def _attach(self, port: int) -> int:
        tune_stream(self._sock)
        return self.context.dataplane.attach_stream(port, self._sock)


class AdoptedDgram(AdoptedPort):
    kind: ClassVar[PortKind] = "dgram"

    def _attach(self, port: int) -> int:
        self._sock.setblocking(False)
        raise_buffers(self._sock, DGRAM_BUFFER)
        return self.context.dataplane.attach_dgram(port, self._sock)
