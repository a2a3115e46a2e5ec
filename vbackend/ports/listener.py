"""A listening stream socket that hands over each peer it accepts.

Not here: what becomes of a peer (stream.py, multi.py). Rule: a failing accept never ends the listening; when
the process has no descriptors left, the listener rests for a second.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Final, Self

from vbackend.ports.sockets import SocketAddress, address_text, peer_text, resolve, tune_stream
from vbackend.ports.spec import TcpAddress, UnixAddress
from vbackend.ports.unixsock import SocketIdentity, bind_unix, release_path

__all__ = ["Listener"]

log = logging.getLogger(__name__)

OnPeer = Callable[[socket.socket, str], None]

_BACKLOG: Final = 128
_AT_ONCE: Final = 64  # peers accepted in one turn of the event loop
_REST_S: Final = 1.0


class Listener:
    """Accepts from `open` until `close`. `on_peer` gets each peer's socket, tuned, and owns it."""

    def __init__(
        self, sock: socket.socket, place: str, identity: SocketIdentity | None, on_peer: OnPeer
    ) -> None:
        self.place: Final = place  # the path, or IP:PORT with the real port
        self._sock = sock
        self._identity = identity
        self._on_peer = on_peer
        self._rest: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._accept)

    @classmethod
    async def open(
        cls,
        address: UnixAddress | TcpAddress,
        on_peer: OnPeer,
        *,
        kind: socket.SocketKind = socket.SOCK_STREAM,
        mode: int | None = None,
    ) -> Self:
        """Listen; `kind` and `mode`, the file's permissions, are for Unix sockets.

        ConfigError: a living process has the path, the host name is unknown; OSError: the rest.
        """
        if isinstance(address, UnixAddress):
            sock, identity = _listen_unix(address.path, kind, mode)
            return cls(sock, address.path, identity, on_peer)
        sock = _listen_tcp(*await resolve(address, socket.SOCK_STREAM))
        return cls(sock, address_text(sock.getsockname()), None, on_peer)

    def close(self) -> None:
        """Stop listening and remove the socket's file if it is still ours; a second call does nothing."""
        if self._rest is not None:
            self._rest.cancel()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._sock.close()
            release_path(self.place, self._identity)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                log.error("cannot accept on %s, again in %.0f s: %s", self.place, _REST_S, error)
                self._loop.remove_reader(self._sock)
                self._rest = self._loop.call_later(_REST_S, self._loop.add_reader, self._sock, self._accept)
                return
            try:
                if sock.type == socket.SOCK_STREAM:
                    tune_stream(sock)
                else:
                    sock.setblocking(False)  # a unit's queue is if_snd, not the socket
            except OSError as error:  # it left before it was taken
                log.info("a peer of %s left at once: %s", self.place, error)
                sock.close()
            else:
                self._on_peer(sock, peer_text(sock))
            if self._sock.fileno() < 0:
                return


def _listen_unix(
    path: str, kind: socket.SocketKind, mode: int | None
) -> tuple[socket.socket, SocketIdentity | None]:
    sock = socket.socket(socket.AF_UNIX, kind)
    try:
        sock.setblocking(False)
        return sock, bind_unix(sock, path, mode=mode, backlog=_BACKLOG)
    except BaseException:
        sock.close()
        raise


def _listen_tcp(family: socket.AddressFamily, place: SocketAddress) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not held up by old connections
        sock.bind(place)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"cannot listen on {address_text(place)}: {error.strerror}") from None
    return sock
