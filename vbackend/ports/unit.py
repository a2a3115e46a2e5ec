"""Unit ports: the device face of a tun unit for any program, as a SOCK_SEQPACKET Unix socket.

One message is one packet, in both directions, behind the link header that `header=` names. One program at a time:
another one gets a message that says who has it, which no link header takes for a packet, and the end. The end is also
what a program gets when the unit is destroyed.

A write that the driver would refuse is refused here too, and the message is lost. Who wants to know connects to
PATH.errors, also SOCK_SEQPACKET, and gets a line for each: which message of the session (the first is 1), the errno,
and what it means: "17 97 EAFNOSUPPORT: neither IPv4 nor IPv6".
"""

import asyncio
import errno
import logging
import socket
from contextlib import suppress
from typing import ClassVar

from vbackend.ports.base import PortContext, PortKind
from vbackend.ports.listener import Listener
from vbackend.ports.spec import UnitSpec, UnixAddress
from vbackend.ports.stream import OnePeerPort
from vbackend.ports.unitport import PortWithUnit

__all__ = ["UnitPort"]

log = logging.getLogger(__name__)


class UnitPort(PortWithUnit, OnePeerPort):
    kind: ClassVar[PortKind] = "unit"
    spec: UnitSpec

    def __init__(self, context: PortContext, name: str, spec: UnitSpec) -> None:
        super().__init__(context, name, spec)
        self._errors_listener: Listener | None = None
        self._errors: socket.socket | None = None  # who wants to hear of refused writes

    @property
    def adapter_name(self) -> str:
        return f"unit {self._path}"

    @property
    def _path(self) -> str:
        assert self.spec.address is not None, "without one it is a tunfile port"
        return self.spec.address.path

    async def open(self) -> None:
        await self.listen(UnixAddress(self._path), socket.SOCK_SEQPACKET)
        self._errors_listener = await Listener.open(
            UnixAddress(f"{self._path}.errors"), self._on_errors_peer, kind=socket.SOCK_SEQPACKET
        )

    def attach(self, sock: socket.socket, peer: str) -> bool:
        assert self.engine_port is not None, "attach comes after create"
        try:
            session = self.context.dataplane.attach_reader(self.engine_port, sock, device=False)
            self.open_file()
        except OSError as error:
            self.context.dataplane.detach_reader(self.engine_port)
            self.refuse(peer, f"the unit cannot be opened: {error}")
            return False
        self.started(session, peer)
        return True

    def turn_away(self, sock: socket.socket, reason: str) -> None:
        text = f"refused: {self.interface.name} is open, EBUSY {errno.EBUSY}: {reason}\n"
        with suppress(OSError):  # it left before it heard
            sock.send(text.encode())
        sock.close()

    def quiesce(self) -> None:
        super().quiesce()
        if self._errors_listener is not None:
            self._errors_listener.close()
            self._errors_listener = None
        self._drop_errors_peer()

    def _on_errors_peer(self, sock: socket.socket, peer: str) -> None:
        if self._errors is not None or self.engine_port is None:
            self.turn_away(sock, "somebody listens to its errors already")
            return
        log.info("port %s: %s listens to errors", self.name, peer)
        self._errors = sock
        self.context.dataplane.report_errors(self.engine_port, sock.dup())
        asyncio.get_running_loop().add_reader(sock, self._on_errors_data)

    def _on_errors_data(self) -> None:
        """It has nothing to say: it leaves, or is told to."""
        self._drop_errors_peer()
        if self.engine_port is not None:
            self.context.dataplane.report_errors(self.engine_port, None)

    def _drop_errors_peer(self) -> None:
        if self._errors is not None:
            sock, self._errors = self._errors, None
            asyncio.get_running_loop().remove_reader(sock)
            with suppress(OSError):  # it left first
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
