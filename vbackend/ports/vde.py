"""VDE ports: a directory that clients take for a vde_switch's, each of them a port of its own.

    asking  a client connected to DIR/ctl and has not yet said all of its request (vdewire.py)
    a port  it has been told where its frames go, as datagrams; both ends' sockets are connected to each other

A client's port is there as long as its control connection. Which number it wants is part of the request: the port is
NAME.NUMBER; else it has the lowest free one. QEMU's `-netdev vde`, user-mode Linux's `daemon` and all of libvdeplug
are such clients. Not here: the directory and its sockets (vdedir.py).
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import ClassVar, Final

from vbackend.dataplane import SessionEnded
from vbackend.errors import ConfigError, PeerError
from vbackend.ports.base import PortContext, PortKind
from vbackend.ports.listener import Listener
from vbackend.ports.multi import ChildPort, ParentPort
from vbackend.ports.names import child_name
from vbackend.ports.sockets import peer_uid
from vbackend.ports.spec import UnixAddress, VdeSpec
from vbackend.ports.unixsock import SocketIdentity, release_path
from vbackend.ports.vdedir import SwitchDirectory, connect_client
from vbackend.ports.vdewire import Request, answer, parse_request

__all__ = ["VdeClientPort", "VdePort"]

log = logging.getLogger(__name__)

_MOST_ASKING: Final = 256  # a crowd that starts at once is less, in the time that a request takes
_MOST_NUMBER: Final = 1024
_PATIENCE_S: Final = 10.0  # for all of a request
_AT_ONCE: Final = 4096  # bytes; a request and its description are less
_MOST_CHATTER: Final = 65_536  # bytes that a client may say once it has its port


class VdePort(ParentPort):
    """The directory, and those who ask for a port."""

    kind: ClassVar[PortKind] = "vde"
    spec: VdeSpec

    def __init__(self, context: PortContext, name: str, spec: VdeSpec) -> None:
        super().__init__(context, name, spec)
        self._directory: SwitchDirectory | None = None
        self._listener: Listener | None = None
        self._asking: list[_Asking] = []

    async def open(self) -> None:
        directory = SwitchDirectory.claim(self.spec.directory, self.spec.mode, self.spec.group)
        self._directory = directory
        place = UnixAddress(directory.control)
        self._listener = await Listener.open(place, self._on_peer, mode=directory.mode)
        directory.open_up()
        self.state, self.detail = "listening", f"in {directory.path}"

    def quiesce(self) -> None:
        super().quiesce()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for asking in self._asking:
            asking.close()
        self._asking.clear()

    async def cleanup(self) -> None:
        if self._directory is not None:
            directory, self._directory = self._directory, None
            directory.release()

    def _on_peer(self, sock: socket.socket, peer: str) -> None:
        if len(self._asking) >= _MOST_ASKING:
            self._answered(self._asking[0], f"{_MOST_ASKING} others came before it had asked for a port")
        self._asking.append(_Asking(sock, peer, self._answered))

    def _answered(self, asking: "_Asking", said: Request | str) -> None:
        """It said what it wants, or why nothing comes of it: empty, nobody needs to know."""
        self._asking.remove(asking)
        asking.stop()
        try:
            if isinstance(said, str):
                raise PeerError(said)
            self._admit(asking.control, asking.peer, said)
        except (PeerError, ConfigError, OSError) as error:
            asking.control.close()
            if reason := str(error):
                self.refuse(asking.peer, reason)

    def _admit(self, control: socket.socket, peer: str, request: Request) -> None:
        """Give it a port. PeerError, ConfigError, OSError: it gets none."""
        if reason := self.lacks_room():
            raise PeerError(reason)
        assert self._directory is not None, "it listens"
        number = self._number(request.port)
        with ExitStack() as undo:
            data = undo.enter_context(connect_client(request.socket, peer_uid(control)))
            bound = self._directory.bind(data, number)
            undo.callback(release_path, *bound)
            port = VdeClientPort(self, f"{self.name}.{number}", control, bound)
            self.enter(port)
            undo.pop_all()
        port.attach(data, f"{peer}: {request.description}" if request.description else peer)

    def _number(self, wanted: int | None) -> int:
        taken = self.context.taken()
        if wanted is None:
            return int(child_name(self.name, taken).rpartition(".")[2])
        if wanted > _MOST_NUMBER:
            raise PeerError(f"it wants port {wanted}; there are 0 to {_MOST_NUMBER}")
        if f"{self.name}.{wanted}" in taken:
            raise PeerError(f"it wants port {wanted}, which another one has")
        return wanted


class VdeClientPort(ChildPort):
    """The port of one client; owns its control connection and the path of the switch's end."""

    kind: ClassVar[PortKind] = "vde"

    def __init__(
        self, parent: VdePort, name: str, control: socket.socket, bound: tuple[str, SocketIdentity | None]
    ) -> None:
        super().__init__(parent, name, replace(parent.spec, options=replace(parent.spec.options, name=name)))
        self._control = control
        self._bound = bound
        self._chatter = 0

    def attach(self, data: socket.socket, peer: str) -> None:
        """Begin the session and tell the client; whatever fails ends its port."""
        assert self.engine_port is not None, "attach comes after create"
        try:
            session = self.context.dataplane.attach_dgram(self.engine_port, data)
        except OSError as error:
            data.close()
            self._parent_port.refuse(peer, f"the engine cannot take its socket: {error}")
            self.context.drop(self)
            return
        self.started(session, peer)
        try:
            self._control.send(answer(self._bound[0].encode(errors="surrogateescape")))
        except OSError as error:
            self.finish(f"it cannot be told its port: {error.strerror}")
        else:
            asyncio.get_running_loop().add_reader(self._control, self._hear)

    def ended(self, event: SessionEnded) -> None:
        gone = event.reason == "error" and event.value in (errno.ECONNREFUSED, errno.ECONNRESET)
        if gone and event.session == self._engine_session:
            self.finish("the peer closed its data socket")
        else:
            super().ended(event)

    def quiesce(self) -> None:
        super().quiesce()
        if self._control.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()
            release_path(*self._bound)

    def _hear(self) -> None:
        """The end of the control connection is the end; nothing else is ever said on it."""
        said = _receive(self._control)
        if said is None:
            return
        self._chatter += len(said)
        if not said:
            self.finish("the peer closed the connection")
        elif self._chatter > _MOST_CHATTER:
            self.finish("the peer does not stop talking on its control connection")


class _Asking:
    """A client until it has said all that it wants."""

    def __init__(
        self, control: socket.socket, peer: str, answered: Callable[["_Asking", Request | str], None]
    ) -> None:
        self.control: Final = control
        self.peer: Final = peer
        self._answered = answered
        self._said = b""
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(_PATIENCE_S, self._give_up)
        self._loop.add_reader(control, self._hear)

    def stop(self) -> None:
        """Hear no more; the connection stays."""
        self._timer.cancel()
        self._loop.remove_reader(self.control)

    def close(self) -> None:
        self.stop()
        self.control.close()

    def _hear(self) -> None:
        said = _receive(self.control)
        if said is None:
            return
        if not said:  # without a word: somebody looked whether the switch is alive
            cut = f"it left in the middle of its request, {len(self._said)} bytes into it"
            self._answered(self, cut if self._said else "")
            return
        self._said += said
        try:
            request = parse_request(self._said)
        except PeerError as error:
            self._answered(self, str(error))
        else:
            if request is not None:
                self._answered(self, request)

    def _give_up(self) -> None:
        self._answered(
            self, f"it did not ask for a port within {_PATIENCE_S:.0f} s; {len(self._said)} bytes came"
        )


def _receive(sock: socket.socket) -> bytes | None:
    """What there is; empty: the end; None: nothing."""
    try:
        return sock.recv(_AT_ONCE)
    except (BlockingIOError, InterruptedError):
        return None
    except OSError:  # it was killed
        return b""
