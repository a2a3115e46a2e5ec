"""What all ports have in common: one engine port, at most one session at a time, a state that can be shown.

Not here: how a peer or device is opened; that is one module per attachment. The life of a port:

    create()   the engine port exists and is joined; frames for it are dropped with `no-peer`
    open()     it listens, dials, or has its device or socket; then sessions start and end until
    quiesce()  no new session starts; a running one stays with the engine
    cleanup()  what was made outside the engine (socket files, devices) is gone

Rule: a session that ends, for whatever reason, never ends the port.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final, Literal

from pydantic import JsonValue

from vbackend.dataplane import Dataplane, ImpairmentConfig, RingStopped, SessionEnded
from vbackend.errors import ConfigError
from vbackend.ports.impairment import Gilbert, Impairment, changed_impairment
from vbackend.ports.rates import burst_for
from vbackend.ports.reasons import end_text
from vbackend.ports.spec import PortSpec
from vbackend.snapshot import (
    ImpairmentSnapshot,
    LaneCounters,
    PortSnapshot,
    SessionInfo,
    UnitSnapshot,
    VhostSnapshot,
)
from vbackend.tun.driver import TunDriver

if TYPE_CHECKING:
    from vbackend.ports.segments import Segment

__all__ = ["CaptureLink", "EventName", "Port", "PortContext", "PortKind", "PortState"]

log = logging.getLogger(__name__)

EventName = Literal["PORT_ADDED", "PORT_REMOVED", "PORT_CONNECTED", "PORT_DISCONNECTED", "PORT_REFUSED"]
PortKind = Literal["stream", "dgram", "tap", "tun", "unit", "tunfile", "channel", "vhost-user", "vde"]
CaptureLink = Literal["ethernet", "null", "loop", "raw"]
PortState = Literal["listening", "dialling", "connected", "down", "failed"]

DEFAULT_QUEUE_BYTES: Final = 2_097_152  # as the engine's add_port


@dataclass(frozen=True, slots=True)
class PortContext:
    """What a port may use of the backend it belongs to."""

    dataplane: Dataplane
    segment: "Segment"
    units: TunDriver
    queue_frames: int  # default of ports that name no limit
    emit: Callable[[EventName, dict[str, JsonValue]], None]
    drain: Callable[[], None]  # deliver the engine's events of until now
    pick_worker: Callable[[], int]
    taken: Callable[[], Container[str]]  # names of ports
    add: Callable[["Port"], None]  # a port that came by itself (a peer of a `multi` port)
    drop: Callable[["Port"], None]  # one of those whose peer left
    clock: Callable[[], float]  # seconds since the epoch
    random: Callable[[], float]  # [0, 1)


class Port(ABC):
    """The common state. Subclasses set `state` and `detail` and react to `on_end`."""

    kind: ClassVar[PortKind]

    def __init__(self, context: PortContext, name: str, spec: PortSpec, *, parent: str | None = None) -> None:
        options = spec.options
        self.context: Final = context
        self.name: Final = name
        self.spec: PortSpec = spec
        self.parent: Final = parent
        self.engine_port: int | None = None
        self.worker = 0
        self.up = True
        self.queue_frames = context.queue_frames if options.queue is None else options.queue
        self.queue_bytes = DEFAULT_QUEUE_BYTES if options.queue_bytes is None else options.queue_bytes
        self.rate = options.rate
        self.burst_wanted = options.burst
        self.impairment = options.impairment
        self.state: PortState = "down"
        self.detail = ""
        self.session: SessionInfo | None = None
        self.sessions = 0
        self.refused = 0
        self.last_end = ""
        self._engine_session = -1
        self._closing = False

    @property
    def segment(self) -> "Segment":
        """What it is joined to."""
        return self.context.segment

    # The life of a port

    def create(self) -> None:
        """Make the engine port and join it to the segment."""
        dataplane = self.context.dataplane
        self.worker = self.context.pick_worker()
        port = dataplane.add_port(
            queue_frames=self.queue_frames,
            queue_bytes=self.queue_bytes,
            mac=self.source_mac,
            isolated=self.spec.options.isolated,
            worker=self.worker,
        )
        try:
            dataplane.join(port, self.segment.number)
            if not self.up:
                dataplane.set_port(port, up=False)
            if self.rate is not None:
                dataplane.set_port(port, rate=self.rate, burst=self.burst)
            self._impair(port)
        except BaseException:
            dataplane.remove_port(port)
            raise
        self.engine_port = port

    @abstractmethod
    async def open(self) -> None:
        """Begin to listen or dial, or attach the device. After an error `forget` and `cleanup` are due."""

    def quiesce(self) -> None:
        """Start no session any more; a second call does nothing. Subclasses extend it."""
        self._closing = True

    async def cleanup(self) -> None:  # noqa: B027 (most ports make nothing)
        """Take away what was made outside the engine; a second call does nothing."""

    def forget(self) -> None:
        """Quiesce, end the session in order and give up the engine port; `cleanup` comes after."""
        self.quiesce()
        if self.engine_port is not None:
            port, self.engine_port = self.engine_port, None
            self.context.dataplane.remove_port(port)
        self.finish("the port was removed")

    @property
    def burst(self) -> int | None:
        """Bytes, None without a rate."""
        return None if self.rate is None else burst_for(self.rate, self.burst_wanted)

    def set(
        self,
        *,
        up: bool | None = None,
        queue_frames: int | None = None,
        queue_bytes: int | None = None,
        rate: int | None = None,
        burst: int | None = None,
    ) -> None:
        """Change what is not None, live. A rate of 0 ends the limit; a burst stays when the rate changes."""
        if rate == 0:
            self.rate = self.burst_wanted = None
        elif rate is not None or burst is not None:
            self.rate = self.rate if rate is None else rate
            self.burst_wanted = self.burst_wanted if burst is None else burst
        if self.engine_port is not None and (rate is not None or burst is not None):
            self.context.dataplane.set_port(self.engine_port, rate=self.rate or 0, burst=self.burst)
        if self.engine_port is not None:
            self.context.dataplane.set_port(
                self.engine_port, up=up, queue_frames=queue_frames, queue_bytes=queue_bytes
            )
        self.up = self.up if up is None else up
        self.queue_frames = self.queue_frames if queue_frames is None else queue_frames
        self.queue_bytes = self.queue_bytes if queue_bytes is None else queue_bytes

    def set_carrier(self, up: bool) -> None:  # noqa: B027 (most peers see none)
        """Tell the peer whether its link has a carrier, as long as the port is up; one that is down never has."""

    def impair(self, impairment: Impairment | Mapping[str, str]) -> None:
        """Change what a bad line does, live: a new one, or words of `changed_impairment`. ConfigError: no sense."""
        if not isinstance(impairment, Impairment):
            try:
                impairment = changed_impairment(self.impairment, impairment)
            except ValueError as error:
                raise ConfigError(f"port {self.name!r}: {error}") from None
        self.impairment = impairment
        if self.engine_port is not None:
            self._impair(self.engine_port)

    def unlearn(self) -> None:
        """Forget the addresses that its switch has learned there."""
        if self.engine_port is not None:
            self.context.dataplane.unlearn(self.engine_port)

    def inject(self, frame: bytes) -> None:
        """Forward a frame as if the peer had sent it. ConfigError: no such frame; guests of `multi` have own ports."""
        if self.engine_port is None:
            raise ConfigError(f"port {self.name!r}: its guests have ports of their own; name one of those")
        try:
            self.context.dataplane.inject(self.engine_port, frame)
        except ValueError as error:
            raise ConfigError(f"port {self.name!r}: {error}") from None

    def dial_now(self) -> None:  # noqa: B027 (most do not dial)
        """Ports that dial try again at once."""

    def _impair(self, engine_port: int) -> None:
        """Tell the engine; a seed that nobody gave is picked, and kept so that a run can be repeated."""
        impairment = self.impairment
        if impairment.is_off:
            self.context.dataplane.set_impairment(engine_port, None)
            return
        if impairment.seed is None:
            self.impairment = impairment = replace(impairment, seed=int(self.context.random() * 2**32))
        self.context.dataplane.set_impairment(engine_port, _engine_config(impairment))

    # The life of a session

    def started(self, engine_session: int, peer: str) -> None:
        """Record a session that was just attached."""
        self.sessions += 1
        self._engine_session = engine_session
        self.session = SessionInfo(number=self.sessions, peer=peer, since=self.context.clock())
        self.state, self.detail = "connected", ""
        log.info("port %s: connected to %s", self.name, peer)
        self.context.emit("PORT_CONNECTED", {"port": self.name, "session": self.sessions, "peer": peer})

    def ended(self, event: SessionEnded) -> None:
        """The engine reports the end of a session; one that is not the present session's is old news."""
        if event.session == self._engine_session:
            self.finish(end_text(event.reason, event.value), expected=event.reason in ("eof", "detached"))

    def ring_stopped(self, event: RingStopped) -> None:  # noqa: B027 (most ports have no rings)
        """The engine reports that it stopped a ring of the session."""

    def finish(self, reason: str, *, expected: bool = True) -> None:
        """Record that the session, if there is one, is over."""
        if self.session is None:
            return
        session, self.session = self.session, None
        self.last_end = reason
        level = logging.INFO if expected else logging.WARNING
        log.log(
            level, "port %s: session %d with %s ended: %s", self.name, session.number, session.peer, reason
        )
        self.context.emit(
            "PORT_DISCONNECTED",
            {"port": self.name, "session": session.number, "peer": session.peer, "reason": reason},
        )
        if not self._closing:
            self.on_end()

    @abstractmethod
    def on_end(self) -> None:
        """What comes after a session: accept or dial the next, or say that there is none."""

    def refuse(self, peer: str, reason: str) -> None:
        """Count and report a peer that was turned away."""
        self.refused += 1
        log.warning("port %s: refused %s: %s", self.name, peer, reason)
        self.context.emit("PORT_REFUSED", {"port": self.name, "peer": peer, "reason": reason})

    # What it looks like

    @property
    def source_mac(self) -> bytes | None:
        """The only source address the engine lets through from the peer; None: any."""
        return self.spec.options.mac

    @property
    def capture_link(self) -> CaptureLink:
        """What captured packets of this port begin with: an Ethernet header, a family, or IP itself (raw)."""
        return "ethernet"

    def unit_snapshot(self) -> UnitSnapshot | None:
        """Of the tun unit behind the port, if there is one."""
        return None

    def impairment_snapshot(self) -> ImpairmentSnapshot | None:
        """Of the impairment, if there is one."""
        if self.impairment.is_off:
            return None
        port = self.engine_port
        counts = None if port is None else self.context.dataplane.impairment(port)
        return ImpairmentSnapshot(settings=self.impairment.settings(), **(counts or {}))

    def vhost_snapshot(self) -> VhostSnapshot | None:
        """Of the vhost-user front-end, if one is connected."""
        return None

    def snapshot(self) -> PortSnapshot:
        rx, tx = (
            (LaneCounters(), LaneCounters())
            if self.engine_port is None
            else self.context.dataplane.counters(self.engine_port)
        )
        return PortSnapshot(
            name=self.name,
            kind=self.kind,
            where=self.spec.text,
            up=self.up,
            state=self.state if self.up else "down",
            detail=self.detail if self.up else "set down",
            session=self.session,
            sessions=self.sessions,
            refused=self.refused,
            last_end=self.last_end,
            queue_frames=self.queue_frames,
            queue_bytes=self.queue_bytes,
            rate=self.rate,
            burst=self.burst,
            impairment=self.impairment_snapshot(),
            mac=None if self.source_mac is None else self.source_mac.hex(":"),
            isolated=self.spec.options.isolated,
            parent=self.parent,
            worker=self.worker,
            unit=self.unit_snapshot(),
            vhost=self.vhost_snapshot(),
            rx=rx,
            tx=tx,
        )


def _engine_config(impairment: Impairment) -> ImpairmentConfig:
    loss = impairment.loss
    gilbert = (loss.p, loss.r, loss.bad, loss.good) if isinstance(loss, Gilbert) else None
    return ImpairmentConfig(
        delay_us=impairment.delay,
        jitter_us=impairment.jitter,
        overtake=impairment.overtake,
        loss=0.0 if isinstance(loss, Gilbert) else loss,
        gilbert=gilbert,
        duplicate=impairment.duplicate,
        corrupt=impairment.corrupt,
        reorder=impairment.reorder,
        seed=impairment.seed or 0,
        limit_frames=impairment.hold_frames,
        limit_bytes=impairment.hold,
    )
