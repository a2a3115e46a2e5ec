"""The only importer of the Rust engine: fds are moved in, events and counters come out as typed values.

It decides nothing. Every method is the engine's (`_native.pyi` has their contracts); what is added here is
ownership of descriptors and types.
"""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from types import TracebackType
from typing import Literal, Self, TypedDict, cast

from vbackend import _native
from vbackend.errors import HostError
from vbackend.fds import OwnedFd
from vbackend.snapshot import LaneCounters

__all__ = [
    "AdapterConfig",
    "CaptureLane",
    "Dataplane",
    "DataplaneEvent",
    "EventsLost",
    "ImpairmentConfig",
    "NativeCapture",
    "NativeChannel",
    "NativeUnit",
    "RingStopped",
    "SessionEnded",
    "WorkerDied",
    "build_info",
    "drop_reasons",
    "send_sigio",
]

EndReason = Literal["eof", "oversize", "error", "detached", "memory"]
CaptureLane = Literal["both", "rx", "rx-lost", "tx"]  # which frames of a port a capture has
NativeCapture = _native.Capture
NativeChannel = _native.Channel
NativeUnit = _native.TunUnit
send_sigio = _native.send_sigio
build_info = _native.build_info
drop_reasons = _native.drop_reasons


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """A session ended by itself."""

    port: int
    session: int
    reason: EndReason
    value: int  # eof: bytes of a frame that was cut off; oversize: the announced length; error: errno; else 0


@dataclass(frozen=True, slots=True)
class RingStopped:
    """A ring of a vhost-user session made no sense; the session goes on."""

    port: int
    session: int
    ring: int
    problem: str


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """A worker thread panicked: the backend cannot go on."""

    worker: int
    text: str


@dataclass(frozen=True, slots=True)
class EventsLost:
    """So many events did not fit into the engine's list."""

    count: int


DataplaneEvent = SessionEnded | RingStopped | WorkerDied | EventsLost


class _AdapterArguments(TypedDict):
    mac: bytes
    pointopoint: bool
    local: list[IPv4Address | IPv6Address]
    peers: list[IPv4Address | IPv6Address]
    broadcasts: list[IPv4Address]


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What the Ethernet adapter of a tun unit is told."""

    mac: bytes  # its own address on the guests' Ethernet
    pointopoint: bool  # one guest, next hop for everything; else any number of them, asked for by address
    local: tuple[IPv4Address | IPv6Address, ...] = ()  # the unit's
    peers: tuple[IPv4Address | IPv6Address, ...] = ()  # the guest's, as configured
    broadcasts: tuple[IPv4Address, ...] = ()  # of subnets

    def arguments(self) -> _AdapterArguments:
        return {
            "mac": self.mac,
            "pointopoint": self.pointopoint,
            "local": list(self.local),
            "peers": list(self.peers),
            "broadcasts": list(self.broadcasts),
        }


@dataclass(frozen=True, slots=True)
class ImpairmentConfig:
    """What a bad line does, as the engine is told. Times are microseconds, probabilities from 0 to 1."""

    delay_us: int = 0
    jitter_us: int = 0
    overtake: bool = False
    loss: float = 0.0
    gilbert: tuple[float, float, float, float] | None = None  # in the place of `loss`: p, r, 1-h, 1-k
    duplicate: float = 0.0
    corrupt: float = 0.0
    reorder: float = 0.0
    seed: int = 0
    limit_frames: int = 1 << 18  # what may be on its way
    limit_bytes: int = 1 << 26


class Dataplane:
    """The engine, with owned descriptors. Close it, or use it in a `with`."""

    def __init__(self, workers: int = 1) -> None:
        self._engine = _native.Engine(workers)

    @property
    def event_fd(self) -> int:
        """Readable while `drain_events` has something; the engine's own."""
        return self._engine.event_fd

    @property
    def workers(self) -> int:
        return self._engine.workers

    def add_switch(self, *, ageing_ms: int = 300_000, max_entries: int = 4096) -> int:
        return self._engine.add_switch(ageing_ms=ageing_ms, max_entries=max_entries)

    def add_cable(self) -> int:
        return self._engine.add_cable()

    def remove_segment(self, segment: int) -> None:
        self._engine.remove_segment(segment)

    def add_port(
        self,
        *,
        queue_frames: int = 256,
        queue_bytes: int = 2_097_152,
        mac: bytes | None = None,
        isolated: bool = False,
        worker: int | None = None,
    ) -> int:
        return self._engine.add_port(
            queue_frames=queue_frames, queue_bytes=queue_bytes, mac=mac, isolated=isolated, worker=worker
        )

    def remove_port(self, port: int) -> None:
        self._engine.remove_port(port)

    def join(self, port: int, segment: int) -> None:
        self._engine.join(port, segment)

    def leave(self, port: int) -> None:
        self._engine.leave(port)

    def set_port(
        self,
        port: int,
        *,
        up: bool | None = None,
        queue_frames: int | None = None,
        queue_bytes: int | None = None,
        rate: int | None = None,
        burst: int | None = None,
    ) -> None:
        self._engine.set_port(
            port, up=up, queue_frames=queue_frames, queue_bytes=queue_bytes, rate=rate, burst=burst
        )

    def set_impairment(self, port: int, config: ImpairmentConfig | None) -> None:
        """None: a good line again; what is on its way keeps its time."""
        if config is None:
            self._engine.clear_impairment(port)
            return
        self._engine.set_impairment(
            port,
            delay_us=config.delay_us,
            jitter_us=config.jitter_us,
            overtake=config.overtake,
            loss=config.loss,
            gilbert=config.gilbert,
            duplicate=config.duplicate,
            corrupt=config.corrupt,
            reorder=config.reorder,
            seed=config.seed,
            limit_frames=config.limit_frames,
            limit_bytes=config.limit_bytes,
        )

    def impairment(self, port: int) -> dict[str, int] | None:
        return self._engine.impairment(port)

    def attach_stream(self, port: int, sock: OwnedFd | socket.socket) -> int:
        return self._engine.attach_stream(port, sock.detach())

    def attach_dgram(
        self,
        port: int,
        sock: OwnedFd | socket.socket,
        *,
        send_to: str | None = None,
        accept_from: str | None = None,
        send_sock: OwnedFd | socket.socket | None = None,
    ) -> int:
        for owner in (sock, send_sock):
            if owner is not None:
                owner.fileno()  # an empty one raises while both are still the caller's
        send_fd = None if send_sock is None else send_sock.detach()
        return self._engine.attach_dgram(
            port, sock.detach(), send_to=send_to, accept_from=accept_from, send_fd=send_fd
        )

    def attach_tap(self, port: int, fd: OwnedFd, *, vnet_hdr: bool, uso: bool = False) -> int:
        return self._engine.attach_tap(port, fd.detach(), vnet_hdr=vnet_hdr, uso=uso)

    def attach_unit(self, port: int, unit: NativeUnit, config: AdapterConfig) -> int:
        return self._engine.attach_unit(port, unit, **config.arguments())

    def configure_unit(self, port: int, config: AdapterConfig) -> None:
        self._engine.configure_unit(port, **config.arguments())

    def attach_reader(self, port: int, fd: OwnedFd | socket.socket, *, device: bool) -> int:
        return self._engine.attach_reader(port, fd.detach(), device=device)

    def detach_reader(self, port: int) -> None:
        self._engine.detach_reader(port)

    def report_errors(self, port: int, sock: OwnedFd | socket.socket | None) -> None:
        self._engine.report_errors(port, None if sock is None else sock.detach())

    def attach_vhost(self, port: int, *, busy_poll_us: int = 0) -> int:
        return self._engine.attach_vhost(port, busy_poll_us=busy_poll_us)

    def vhost_features(self, port: int, features: int) -> None:
        self._engine.vhost_features(port, features)

    def vhost_set_memory(self, port: int, regions: Sequence[tuple[int, int, int, int, OwnedFd]]) -> None:
        for region in regions:
            region[4].fileno()  # an empty one raises while all are still the caller's
        self._engine.vhost_set_memory(
            port,
            [(guest, size, user, offset, owner.detach()) for guest, size, user, offset, owner in regions],
        )

    def vhost_add_memory(
        self, port: int, guest_address: int, size: int, user_address: int, offset: int, fd: OwnedFd
    ) -> None:
        self._engine.vhost_add_memory(port, guest_address, size, user_address, offset, fd.detach())

    def vhost_remove_memory(self, port: int, guest_address: int, size: int, user_address: int) -> None:
        self._engine.vhost_remove_memory(port, guest_address, size, user_address)

    def vhost_start_ring(
        self, port: int, ring: int, *, size: int, base: int, descriptors: int, driver: int, device: int
    ) -> None:
        self._engine.vhost_start_ring(
            port, ring, size=size, base=base, descriptors=descriptors, driver=driver, device=device
        )

    def vhost_stop_ring(self, port: int, ring: int) -> int | None:
        return self._engine.vhost_stop_ring(port, ring)

    def vhost_enable_ring(self, port: int, ring: int, enabled: bool) -> None:
        self._engine.vhost_enable_ring(port, ring, enabled)

    def vhost_set_kick(self, port: int, ring: int, fd: OwnedFd | None) -> None:
        self._engine.vhost_set_kick(port, ring, None if fd is None else fd.detach())

    def vhost_set_call(self, port: int, ring: int, fd: OwnedFd | None) -> None:
        self._engine.vhost_set_call(port, ring, None if fd is None else fd.detach())

    def vhost_set_err(self, port: int, ring: int, fd: OwnedFd | None) -> None:
        self._engine.vhost_set_err(port, ring, None if fd is None else fd.detach())

    def vhost_set_log(self, port: int, size: int, offset: int, fd: OwnedFd | None) -> None:
        self._engine.vhost_set_log(port, size, offset, None if fd is None else fd.detach())

    def vhost_set_log_call(self, port: int, fd: OwnedFd | None) -> None:
        self._engine.vhost_set_log_call(port, None if fd is None else fd.detach())

    def vhost_rings(self, port: int) -> list[dict[str, int]]:
        return self._engine.vhost_rings(port)

    def attach_channel(self, port: int) -> NativeChannel:
        return self._engine.attach_channel(port)

    def detach(self, port: int) -> None:
        self._engine.detach(port)

    def capture(
        self,
        port: int,
        capture: NativeCapture,
        interface: int,
        *,
        snaplen: int,
        program: Sequence[tuple[int, int, int, int]] | None = None,
        lane: CaptureLane = "both",
        link: str = "ethernet",
    ) -> None:
        program = None if program is None else list(program)
        self._engine.capture(port, capture, interface, lane=lane, link=link, snaplen=snaplen, filter=program)

    def uncapture(self, port: int, capture: NativeCapture) -> None:
        self._engine.uncapture(port, capture)

    def unlearn(self, port: int) -> None:
        """Forget the addresses learned at a port."""
        self._engine.unlearn(port)

    def inject(self, port: int, frame: bytes) -> None:
        self._engine.inject(port, frame)

    def drain_events(self) -> list[DataplaneEvent]:
        """What workers reported since the last call."""
        return [_typed(event) for event in self._engine.drain_events()]

    def counters(self, port: int) -> tuple[LaneCounters, LaneCounters]:
        """(rx, tx) of one moment."""
        lanes = self._engine.counters(port)
        return _lane(lanes["rx"]), _lane(lanes["tx"])

    def fdb(self, segment: int) -> list[tuple[bytes, int, int]]:
        return self._engine.fdb(segment)

    def close(self) -> None:
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _typed(event: _native.Event) -> DataplaneEvent:
    match event.kind:
        case "session-ended":
            return SessionEnded(event.port, event.session, cast(EndReason, event.reason), event.value)
        case "ring-stopped":
            return RingStopped(event.port, event.session, event.value, event.reason)
        case "worker-died":
            return WorkerDied(event.value, event.reason)
        case "events-lost":
            return EventsLost(event.value)
        case other:
            raise HostError(
                f"the engine reports {other!r}, unknown to this vbackend: rebuild it (tools/dev build)"
            )


def _lane(words: dict[str, int]) -> LaneCounters:
    drops = {key.removeprefix("drop:"): value for key, value in words.items() if key.startswith("drop:")}
    return LaneCounters(
        frames_in=words["frames_in"],
        frames_out=words["frames_out"],
        bytes_out=words["bytes_out"],
        queued=words["queued"],
        drops=drops,
    )
