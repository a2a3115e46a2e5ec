"""One front-end's connection: requests in from its socket, commands out to the engine, answers back.

The I/O shell around protocol.py, on the event loop. Rules: it never waits for the peer, and asks no more of one that
does not read its answers; whatever way a session ends, its descriptors are closed, and `on_end` hears it once.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol, assert_never

from vbackend.errors import PeerError
from vbackend.fds import OwnedFd
from vbackend.vhost_user.announce import announcement
from vbackend.vhost_user.events import (
    AddMemory,
    Announce,
    Command,
    EnableRing,
    KeepBackendChannel,
    Message,
    RemoveMemory,
    SetCall,
    SetErr,
    SetFeatures,
    SetKick,
    SetLog,
    SetLogCall,
    SetMemory,
    StartRing,
    StopRing,
)
from vbackend.vhost_user.messages import request_name
from vbackend.vhost_user.protocol import FrontEnd
from vbackend.vhost_user.reader import MessageReader

__all__ = ["Rings", "Session"]

log = logging.getLogger(__name__)

_AT_ONCE: Final = 64  # requests handled in one turn of the event loop


class Rings(Protocol):
    """What carries the commands out: `Dataplane`. Descriptors are taken, also on error.

    ValueError: it makes no sense; OSError: the host refuses. Nothing has changed then.
    """

    def vhost_features(self, port: int, features: int) -> None: ...
    def vhost_set_memory(self, port: int, regions: Sequence[tuple[int, int, int, int, OwnedFd]]) -> None: ...
    def vhost_add_memory(
        self, port: int, guest_address: int, size: int, user_address: int, offset: int, fd: OwnedFd
    ) -> None: ...
    def vhost_remove_memory(self, port: int, guest_address: int, size: int, user_address: int) -> None: ...
    def vhost_start_ring(
        self, port: int, ring: int, *, size: int, base: int, descriptors: int, driver: int, device: int
    ) -> None: ...
    def vhost_stop_ring(self, port: int, ring: int) -> int | None: ...
    def vhost_enable_ring(self, port: int, ring: int, enabled: bool) -> None: ...
    def vhost_set_kick(self, port: int, ring: int, fd: OwnedFd | None) -> None: ...
    def vhost_set_call(self, port: int, ring: int, fd: OwnedFd | None) -> None: ...
    def vhost_set_err(self, port: int, ring: int, fd: OwnedFd | None) -> None: ...
    def vhost_set_log(self, port: int, size: int, offset: int, fd: OwnedFd | None) -> None: ...
    def vhost_set_log_call(self, port: int, fd: OwnedFd | None) -> None: ...
    def inject(self, port: int, frame: bytes) -> None: ...


class Session:
    """Owns the socket. Runs from its making until `close`, or until it ends by itself.

    `before`: called ahead of each request, so that what the engine reported until then is known.
    `on_end`: gets the reason in words, and whether it was an orderly end.
    """

    def __init__(
        self,
        sock: socket.socket,
        front: FrontEnd,
        rings: Rings,
        port: int,
        *,
        before: Callable[[], None],
        on_end: Callable[[str, bool], None],
    ) -> None:
        self.front: Final = front
        self._sock = sock
        self._rings = rings
        self._port = port
        self._before = before
        self._on_end = on_end
        self._reader = MessageReader(sock)
        self._unsent = b""
        self._backend_channel: OwnedFd | None = None
        self._closed = False
        self._loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self._loop.add_reader(sock, self._readable)

    def broken(self, ring: int, problem: str) -> None:
        """The engine stopped a ring; its next kick starts it where it stood."""
        self.front.broken(ring, problem)
        with suppress(ValueError, OSError, RuntimeError):  # all is over, as the next event tells
            self.front.stopped(ring, self._rings.vhost_stop_ring(self._port, ring))

    def pause(self) -> None:
        """Handle no more requests; the connection stays."""
        if not self._closed:
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)

    def close(self) -> None:
        """Close the connection, without a word to `on_end`; a second call does nothing."""
        if self._closed:
            return
        self.pause()
        self._closed = True
        self._reader.close()
        self._sock.close()
        if self._backend_channel is not None:
            self._backend_channel.close()

    def _readable(self) -> None:
        try:
            for _ in range(_AT_ONCE):
                self._before()
                if self._closed or self._unsent:
                    return
                message = self._reader.read()
                if message is None:
                    return
                self._serve(message)
        except EOFError as error:
            self._end(str(error), orderly=True)
        except PeerError as error:
            self._before()  # a session that the engine ended meanwhile has a better reason than this
            self._refuse()
            self._end(str(error), orderly=False)
        except OSError as error:
            self._end(error.strerror or str(error), orderly=False)

    def _serve(self, message: Message) -> None:
        """PeerError: it is illegal, or the engine cannot do it."""
        try:
            step = self.front.handle(message)
            for command in step.commands:
                self._carry_out(message, command)
        finally:
            for fd in message.fds:
                fd.close()
        log.debug("vhost-user port %d: %s %s", self._port, message.request.name, message.payload)
        if step.answer is not None:
            self._send(self.front.encode(message.request, step.answer))

    def _carry_out(self, message: Message, command: Command) -> None:
        try:
            self._do(command)
        except (ValueError, OSError) as error:
            raise PeerError(f"{request_name(message.request)}: {error}") from error

    def _do(self, command: Command) -> None:
        rings, port = self._rings, self._port
        match command:
            case SetFeatures(features):
                rings.vhost_features(port, features)
            case SetMemory(regions, fds):
                rings.vhost_set_memory(
                    port,
                    [
                        (region.guest_address, region.size, region.user_address, region.offset, fd)
                        for region, fd in zip(regions, fds, strict=True)
                    ],
                )
            case AddMemory(region, fd):
                rings.vhost_add_memory(
                    port, region.guest_address, region.size, region.user_address, region.offset, fd
                )
            case RemoveMemory(region):
                rings.vhost_remove_memory(port, region.guest_address, region.size, region.user_address)
            case SetLog(place, fd):
                rings.vhost_set_log(port, place.size, place.offset, fd)
            case SetLogCall(call):
                rings.vhost_set_log_call(port, call)
            case StartRing(ring, size, base, places):
                rings.vhost_start_ring(
                    port,
                    ring,
                    size=size,
                    base=base,
                    descriptors=places.descriptors,
                    driver=places.driver,
                    device=places.device,
                )
            case StopRing(ring):
                self.front.stopped(ring, rings.vhost_stop_ring(port, ring))
            case EnableRing(ring, enabled):
                rings.vhost_enable_ring(port, ring, enabled)
            case SetKick(ring, kick):
                rings.vhost_set_kick(port, ring, kick)
            case SetCall(ring, call):
                rings.vhost_set_call(port, ring, call)
            case SetErr(ring, err):
                rings.vhost_set_err(port, ring, err)
            case Announce(mac):
                rings.inject(port, announcement(mac))
            case KeepBackendChannel(fd):
                if self._backend_channel is not None:
                    self._backend_channel.close()
                self._backend_channel = OwnedFd(fd.detach())
            case _:
                assert_never(command)

    def _refuse(self) -> None:
        """Tell the peer, if it asked to be told, whose request ends the session."""
        header = self._reader.header
        reply = None if header is None else self.front.refusal(header.request, header.need_reply)
        if reply is not None and not self._closed and not self._unsent:
            self._send(reply)

    def _send(self, data: bytes) -> None:
        """Now, as far as the socket takes it; the rest when it can, and until then nothing is read."""
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            log.debug("vhost-user port %d: an answer was not sent: %s", self._port, error)
            return  # reading tells how the connection ended
        if sent < len(data):
            self._unsent = data[sent:]
            self._loop.remove_reader(self._sock)
            self._loop.add_writer(self._sock, self._writable)

    def _writable(self) -> None:
        data, self._unsent = self._unsent, b""
        self._loop.remove_writer(self._sock)
        self._loop.add_reader(self._sock, self._readable)
        self._send(data)

    def _end(self, reason: str, *, orderly: bool) -> None:
        if not self._closed:
            self.close()
            self._on_end(reason, orderly)
