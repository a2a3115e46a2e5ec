"""How a guest in Python sends and receives frames: over a stream, or through rings in shared memory.

Blocking, with a deadline (time.monotonic) on everything. What is not read waits in the socket or the ring, then in the
port's queue, and is then dropped by vbackend, as with a guest that is busy.
"""

import select
import socket
import struct
import time
from typing import Final, Protocol

from vbackend.testing.vhost.frontend import FrontEnd
from vbackend.testing.vhost.memory import GuestMemory
from vbackend.testing.vhost.nic import NO_FEATURES, Nic
from vbackend.testing.vhost.wire import Feature

__all__ = ["StreamWire", "VhostWire", "Wire"]

_LENGTH: Final = struct.Struct(">I")
_READ: Final = 65_536
_LOOK_S: Final = 0.2  # how often somebody who waits for a frame looks whether vbackend is there


class Wire(Protocol):
    """ConnectionError from both: vbackend hung up. TimeoutError: not before the deadline."""

    def send(self, frame: bytes, deadline: float) -> None: ...
    def receive(self, deadline: float) -> bytes: ...
    def close(self) -> None: ...


class StreamWire:
    """What `-netdev stream` does: each frame behind its length, four bytes, big-endian."""

    def __init__(self, sock: socket.socket) -> None:
        """Takes the connected socket."""
        self._sock: Final = sock
        self._got = bytearray()

    def send(self, frame: bytes, deadline: float) -> None:
        self._sock.settimeout(_left(deadline))
        self._sock.sendall(_LENGTH.pack(len(frame)) + frame)

    def receive(self, deadline: float) -> bytes:
        while (frame := self._take()) is None:
            self._sock.settimeout(_left(deadline))
            if not (data := self._sock.recv(_READ)):
                raise ConnectionError("vbackend closed the connection")
            self._got += data
        return frame

    def close(self) -> None:
        self._sock.close()

    def _take(self) -> bytes | None:
        if len(self._got) < _LENGTH.size:
            return None
        end = _LENGTH.size + int(_LENGTH.unpack_from(self._got)[0])
        if len(self._got) < end:
            return None
        frame = bytes(self._got[_LENGTH.size : end])
        del self._got[:end]
        return frame


class VhostWire:
    """What `-netdev vhost-user` and a driver without offloads do: one pair of queues."""

    def __init__(self, sock: socket.socket, *, packed: bool) -> None:
        """Takes the connected control socket, and starts the rings."""
        features = Feature.MRG_RXBUF | (Feature.RING_PACKED if packed else NO_FEATURES)
        self._nic: Final = Nic.start(FrontEnd(sock, GuestMemory()), features=features)

    def send(self, frame: bytes, deadline: float) -> None:
        self._alive()
        self._nic.pairs[0].send(frame, deadline_s=_left(deadline))

    def receive(self, deadline: float) -> bytes:
        while True:
            try:
                return self._nic.pairs[0].recv(deadline_s=min(_LOOK_S, _left(deadline))).frame
            except TimeoutError:
                self._alive()
                if time.monotonic() > deadline:
                    raise

    def close(self) -> None:
        self._nic.close()

    def _alive(self) -> None:
        """The rings do not say so when nobody is on their other side; the control socket does."""
        sock = self._nic.front.sock
        readable, _, _ = select.select([sock], [], [], 0)
        if readable and sock.recv(1, socket.MSG_PEEK) == b"":
            raise ConnectionError("vbackend closed the connection")


def _left(deadline: float) -> float:
    """Seconds; a socket's timeout of 0 would make it non-blocking."""
    return max(0.001, deadline - time.monotonic())
