"""Datagram ports: QEMU's `-netdev dgram` over Unix sockets, UDP and IPv4 multicast.

One datagram is one frame, without a header; the engine sends and receives them. Only the named peer is heard:
QEMU itself takes frames from anybody, vbackend does not. On multicast everybody in the group is the peer;
frames leave through a second socket, so that the engine knows its own by their source address.

A session begins when the sockets are open; should it break (the host's network went away), they are opened
again.
"""

import asyncio
import logging
import socket
import struct
from contextlib import ExitStack
from typing import ClassVar, assert_never

from vbackend.errors import ConfigError
from vbackend.ports.backoff import Backoff
from vbackend.ports.base import Port, PortContext, PortKind
from vbackend.ports.sockets import DGRAM_BUFFER, address_text, engine_address, raise_buffers, resolve
from vbackend.ports.spec import DgramMcastSpec, DgramUdpSpec, DgramUnixSpec
from vbackend.ports.unixsock import SocketIdentity, bind_unix, release_path

__all__ = ["DgramPort"]

log = logging.getLogger(__name__)

DgramSpec = DgramUnixSpec | DgramUdpSpec | DgramMcastSpec


class DgramPort(Port):
    """One datagram socket (multicast: two) and its peer."""

    kind: ClassVar[PortKind] = "dgram"
    spec: DgramSpec

    def __init__(self, context: PortContext, name: str, spec: DgramSpec) -> None:
        super().__init__(context, name, spec)
        self._made: tuple[str, SocketIdentity | None] | None = None  # the local path
        self._again: asyncio.Task[None] | None = None

    async def open(self) -> None:
        match self.spec:
            case DgramUnixSpec():
                self._open_unix(self.spec)
            case DgramUdpSpec():
                await self._open_udp(self.spec)
            case DgramMcastSpec():
                self._open_mcast(self.spec)
            case _:
                assert_never(self.spec)

    def quiesce(self) -> None:
        super().quiesce()
        if self._again is not None:
            self._again.cancel()

    async def cleanup(self) -> None:
        if self._again is not None:
            await asyncio.wait([self._again])
        self._release()

    def on_end(self) -> None:
        self.state, self.detail = "failed", self.last_end
        self._again = asyncio.create_task(self._reopen(), name=f"reopen {self.name}")

    def _open_unix(self, spec: DgramUnixSpec) -> None:
        with ExitStack() as undo:
            sock = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            _prepare(sock)
            self._made = (spec.local.path, bind_unix(sock, spec.local.path))
            undo.callback(self._release)
            peer = engine_address(spec.remote)
            self._attach(sock, peer, send_to=peer, accept_from=peer)
            undo.pop_all()

    async def _open_udp(self, spec: DgramUdpSpec) -> None:
        family, local = await resolve(spec.local, socket.SOCK_DGRAM)
        remote_family, remote = await resolve(spec.remote, socket.SOCK_DGRAM)
        if family is not remote_family:
            raise ConfigError(
                f"port {spec.text!r}: {local[0]} and {remote[0]} are of different IP versions; "
                "give both ends the same"
            )
        with ExitStack() as undo:
            sock = undo.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            _prepare(sock)
            try:
                sock.bind(local)
            except OSError as error:
                raise OSError(error.errno, f"cannot bind {address_text(local)}: {error.strerror}") from None
            peer = address_text(remote)
            self._attach(sock, peer, send_to=peer, accept_from=peer)
            undo.pop_all()

    def _open_mcast(self, spec: DgramMcastSpec) -> None:
        interface = socket.inet_aton(spec.interface or "0.0.0.0")
        place = (spec.group, spec.port)
        with ExitStack() as undo:
            receive = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            send = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            _prepare(receive)
            _prepare(send)
            try:
                receive.setsockopt(
                    socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
                )  # as QEMU: members share the port
                receive.bind(place)
                membership = struct.pack("4s4s", socket.inet_aton(spec.group), interface)
                receive.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
                if spec.interface is not None:
                    send.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
                send.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
                send.connect(place)
            except OSError as error:
                hint = "" if spec.interface else "; local=ADDRESS chooses the interface, e.g. local=127.0.0.1"
                text = f"cannot join {spec.group}:{spec.port}: {error.strerror}{hint}"
                raise OSError(error.errno, text) from None
            self._attach(receive, f"group {spec.group}:{spec.port}", send_socket=send)
            undo.pop_all()

    def _attach(
        self,
        sock: socket.socket,
        peer: str,
        *,
        send_to: str | None = None,
        accept_from: str | None = None,
        send_socket: socket.socket | None = None,
    ) -> None:
        assert self.engine_port is not None, "open comes after create"
        session = self.context.dataplane.attach_dgram(
            self.engine_port, sock, send_to=send_to, accept_from=accept_from, send_sock=send_socket
        )
        self.started(session, peer)

    async def _reopen(self) -> None:
        backoff = Backoff(self.context.random)
        while True:
            delay_s = backoff.next_s()
            self.detail = f"{self.last_end}, again in {delay_s:.1f} s"
            await asyncio.sleep(delay_s)
            self._release()
            try:
                await self.open()
            except (OSError, ConfigError) as error:
                self.last_end = str(error)
            else:
                return

    def _release(self) -> None:
        if self._made is not None:
            (path, identity), self._made = self._made, None
            release_path(path, identity)


def _prepare(sock: socket.socket) -> None:
    sock.setblocking(False)
    raise_buffers(sock, DGRAM_BUFFER)
