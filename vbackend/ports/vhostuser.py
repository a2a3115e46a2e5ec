"""vhost-user ports: the guest's rings, read and written by the engine where they lie in the guest's memory.

The control socket stays here: `vhost_user/session.py` speaks the protocol on it and tells the engine. One front-end
at a time: a session ends when it leaves, breaks the protocol, or cuts its memory short, and the port takes the next.

    Unix socket ──► Session ──► FrontEnd (pure) ──► commands ──► Dataplane.vhost_*
                                     ▲ ring-stopped                    │
                                     └──────────────────── events ◄────┘
"""

import logging
import socket
from typing import ClassVar

from vbackend.dataplane import RingStopped
from vbackend.ports.base import Port, PortKind
from vbackend.ports.dialling import DiallingPort
from vbackend.ports.spec import UnixAddress, VhostUserSpec
from vbackend.ports.stream import OnePeerPort
from vbackend.snapshot import RingSnapshot, VhostSnapshot
from vbackend.vhost_user.features import Feature, Offer, names
from vbackend.vhost_user.protocol import FrontEnd
from vbackend.vhost_user.session import Session

__all__ = ["DialVhostUser", "ListenVhostUser", "VhostUserPort"]

log = logging.getLogger(__name__)


class VhostUserPort(Port):
    """What listening and dialling ports share."""

    kind: ClassVar[PortKind] = "vhost-user"
    spec: VhostUserSpec
    _control: Session | None = None

    def attach(self, sock: socket.socket, peer: str) -> bool:
        """Begin a session on a connected control socket. False: the engine takes none (logged); it is closed."""
        assert self.engine_port is not None, "attach comes after create"
        dataplane, spec = self.context.dataplane, self.spec
        try:
            session = dataplane.attach_vhost(self.engine_port, busy_poll_us=spec.busy_poll)
        except OSError as error:
            sock.close()
            self.refuse(peer, f"the engine cannot take it: {error}")
            return False
        self._control = Session(
            sock,
            FrontEnd(Offer(spec.queues, spec.packed, spec.offloads, spec.mtu)),
            dataplane,
            self.engine_port,
            before=self.context.drain,
            on_end=self._left,
        )
        self.started(session, peer)
        return True

    def quiesce(self) -> None:
        super().quiesce()
        if self._control is not None:
            self._control.pause()

    def finish(self, reason: str, *, expected: bool = True) -> None:
        if self._control is not None:
            control, self._control = self._control, None
            control.close()
        super().finish(reason, expected=expected)

    def ring_stopped(self, event: RingStopped) -> None:
        if self._control is None or event.session != self._engine_session:
            return
        self._control.broken(event.ring, event.problem)
        log.warning("port %s: ring %d was stopped: %s", self.name, event.ring, event.problem)

    def vhost_snapshot(self) -> VhostSnapshot | None:
        if self._control is None or self.engine_port is None:
            return None
        front = self._control.front
        counts = {row["ring"]: row for row in self.context.dataplane.vhost_rings(self.engine_port)}
        return VhostSnapshot(
            features=names(front.features or Feature(0)),
            protocol_features=names(front.protocol_features),
            rings=tuple(
                RingSnapshot(
                    index=index,
                    size=ring.size,
                    running=ring.running,
                    enabled=front.forwards(ring),
                    kicks=counts.get(index, {}).get("kicks", 0),
                    calls=counts.get(index, {}).get("calls", 0),
                    frames=counts.get(index, {}).get("frames", 0),
                    problem=front.problem(ring),
                )
                for index, ring in enumerate(front.rings)
                if ring.size
            ),
            mtu=front.mtu,
            memory=front.memory.size,
        )

    def _left(self, reason: str, orderly: bool) -> None:
        """The protocol's session ended; so does the engine's."""
        if self.engine_port is not None:
            self.context.dataplane.detach(self.engine_port)
        self.finish(reason, expected=orderly)


class ListenVhostUser(VhostUserPort, OnePeerPort):
    """A front-end that dials, as QEMU's client chardev."""

    async def open(self) -> None:
        await self.listen(self.spec.address, socket.SOCK_STREAM)


class DialVhostUser(VhostUserPort, DiallingPort):
    """Connects to a front-end that listens (QEMU's `server=on`)."""

    @property
    def address(self) -> UnixAddress:
        return self.spec.address
