"""One running backend: segments, their ports, and the engine that moves the frames.

Owns the dataplane and every port; the control server, `exec` and tests drive it. Not here: how a port is
opened (ports/), what is asked for on the command line (cli/), how it is shown (control/, cli/).

Rule: everything happens on the event loop's thread. `start` leaves nothing behind when it fails, `stop`
leaves nothing behind at all, and takes at most two seconds.
"""

import asyncio
import logging
import os
import random
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Literal, Self, assert_never

from pydantic import JsonValue

from vbackend import __version__
from vbackend.capture.captures import CaptureChoice, Captures
from vbackend.capture.pcapng import DEFAULT_SNAPLEN, UnitLink
from vbackend.dataplane import Dataplane, EventsLost, RingStopped, SessionEnded, WorkerDied
from vbackend.errors import ConfigError
from vbackend.host.tap import HostDevices
from vbackend.ports.adopted import adopted_port
from vbackend.ports.base import EventName, Port, PortContext
from vbackend.ports.channel import Channel, ChannelPort
from vbackend.ports.impairment import Impairment
from vbackend.ports.make import make_port
from vbackend.ports.multi import ParentPort
from vbackend.ports.names import names_for, unique_name
from vbackend.ports.segments import SegmentKind, Segments
from vbackend.ports.spec import Address, ChannelSpec, PortOptions, PortSpec, UnitSpec
from vbackend.ports.tunfile import TunFilePort
from vbackend.snapshot import BackendSnapshot, PortSnapshot, SegmentSnapshot
from vbackend.tun.driver import TunDriver
from vbackend.tun.file import TunFile
from vbackend.tun.vocabulary import Header, System

__all__ = ["Backend", "BackendEvent"]

log = logging.getLogger(__name__)

_CLEANUP_S: Final = 1.5  # of the two seconds that `stop` may take


@dataclass(frozen=True, slots=True)
class BackendEvent:
    """Something that happened to a port.

    PORT_ADDED         port, kind, where
    PORT_REMOVED       port                          also after PORT_ADDED when it could not be opened
    PORT_CONNECTED     port, session, peer
    PORT_DISCONNECTED  port, session, peer, reason
    PORT_REFUSED       port, peer, reason
    """

    name: EventName
    data: dict[str, JsonValue]
    time: float  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class _Open:
    """What a running backend has."""

    dataplane: Dataplane
    units: TunDriver
    segments: Segments


class Backend:
    """Switches and cables with their ports. Made, started and used on one event loop.

    `segment`: the first one, which has the backend's name; None: all come by `add_segment`. `queue_frames`: the output
    queue's limit of ports that name none. `host`: where taps and tuns come from; the caller closes it. None: one of the
    backend's own, closed by `stop`. `engine`: makes the dataplane.
    """

    def __init__(
        self,
        *,
        name: str,
        segment: SegmentKind | None = "switch",
        workers: int = 1,
        queue_frames: int = 256,
        host: HostDevices | None = None,
        engine: Callable[[int], Dataplane] = Dataplane,
    ) -> None:
        self.name: Final = name
        self._first: Final = segment
        self._workers = workers
        self.queue_frames: Final = queue_frames
        self._devices = host
        self._own_devices: HostDevices | None = None
        self._engine = engine
        self._open: _Open | None = None
        self._ports: dict[str, Port] = {}
        self._starting: set[str] = set()  # names of ports that `start` opens, there or not
        self._captures = Captures(lambda: self._ports.values(), self._joined)
        self._callbacks: list[Callable[[BackendEvent], None]] = []
        self._failure: asyncio.Future[str] | None = None
        self._lock = asyncio.Lock()
        self._started = 0.0

    # Start and stop

    async def start(self, specs: Sequence[PortSpec], *, to_come: int = 0) -> None:
        """Open all ports; when this returns every one listens, dials or has its device.

        `to_come`: how many ports will be adopted or opened as channels, so that a cable counts to two.
        ConfigError: the ports make no sense together; OSError, HostError: the host refused one.
        """
        async with self._lock:
            if self._open is not None:
                raise ConfigError(f"backend {self.name!r} is started already; stop it first")
            if self._first == "cable" and len(specs) + to_come != 2:
                raise ConfigError(
                    f"a cable joins two ports, not {len(specs) + to_come}; use a switch for more"
                )
            names = names_for(specs, self._ports)
            await self._host_devices().sweep()
            self._open_engine()
            self._starting = set(names)  # a guest's port gets none of them
            try:
                if self._first is not None:
                    self._running().segments.add(self.name, self._first).check(0, specs, to_come=to_come)
                for name, spec in zip(names, specs, strict=True):
                    await self._add(self._port(name, spec, None))
            except BaseException:
                await self._stop()
                raise
            self._starting.clear()

    async def stop(self) -> None:
        """End every session in order and take away all that was made; a second call does nothing."""
        async with self._lock:
            await self._stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def failure(self) -> asyncio.Future[str]:
        """Done when the engine can no longer be trusted: a worker died. The result says what happened."""
        if self._failure is None:
            self._failure = asyncio.get_running_loop().create_future()
        return self._failure

    # Live changes

    def add_segment(self, name: str, kind: SegmentKind) -> None:
        """Another switch or cable, without ports. ConfigError: the name is taken."""
        self._running().segments.add(name, kind)

    def remove_segment(self, name: str) -> None:
        """ConfigError: there is none of that name, or it has ports still."""
        self._running().segments.remove(name, self._ports.values())

    async def add_port(self, spec: PortSpec, *, segment: str | None = None) -> PortSnapshot:
        """Add and open a port. `segment`: needed when there are several. Errors as `start`; then the port is not
        there."""
        async with self._lock:
            (name,) = self._new_names([spec], segment)
            return await self._add(self._port(name, spec, segment))

    async def adopt(
        self,
        kind: Literal["stream", "dgram"],
        sock: socket.socket,
        options: PortOptions,
        text: str,
        *,
        segment: str | None = None,
    ) -> PortSnapshot:
        """A port on a connected socket, owned by the backend from now on, also when this raises.

        `text`: what to show as its place, e.g. "stream:fd".
        """
        try:
            async with self._lock:
                spec = ChannelSpec(
                    text, replace(options, name=options.name or unique_name(kind, self._ports))
                )
                (name,) = self._new_names([spec], segment)
                return await self._add(adopted_port(self._context_of(segment), name, kind, sock, spec))
        except BaseException:
            sock.close()
            raise

    async def open_channel(self, name: str, *, segment: str | None = None) -> Channel:
        """A port whose other end is the returned `Channel`."""
        async with self._lock:
            spec = ChannelSpec(f"channel:{name}", PortOptions(name=name))
            (name,) = self._new_names([spec], segment)
            port = ChannelPort(self._context_of(segment), name, spec)
            await self._add(port)
            return port.channel

    async def open_tun(
        self,
        name: str,
        *,
        addresses: Sequence[Address] = (),
        peers: Sequence[Address] = (),
        header: Header = "none",
        mtu: int | None = None,
        mode: Literal["pointopoint", "broadcast"] | None = None,
        family: System = "netbsd",
        queue: int | None = None,
        segment: str | None = None,
    ) -> TunFile:
        """A tun unit on the segment whose device face is the returned file. Closing that leaves the unit without
        reader until the port is removed."""
        async with self._lock:
            options = PortOptions(name=name, queue=queue)
            spec = UnitSpec(
                f"tunfile:{name}", options, None, tuple(addresses), tuple(peers), header, mtu, mode, family
            )
            (name,) = self._new_names([spec], segment)
            port = TunFilePort(self._context_of(segment), name, spec)
            await self._add(port)
            assert port.file is not None, "it was just opened"
            return port.file

    async def remove_port(self, name: str) -> None:
        """Remove a port, of a `multi` port also its peers' ports. ConfigError: there is none of that name."""
        async with self._lock:
            port = self._find(name)
            if isinstance(port, ParentPort):
                port.quiesce()
                for peer in list(port.peers.values()):
                    await self._remove(peer)
            await self._remove(port)

    async def set_port(
        self,
        name: str,
        *,
        up: bool | None = None,
        queue_frames: int | None = None,
        queue_bytes: int | None = None,
        rate: int | None = None,
        burst: int | None = None,
        impairment: Impairment | Mapping[str, str] | None = None,
    ) -> PortSnapshot:
        """Change what is not None, of a `multi` port for all its peers. A `rate` of 0 ends the limit.

        `impairment`: a new one, or words for `changed_impairment`, which change the one there is.
        ConfigError: no such port, a limit that is none, a burst without a rate, an impairment that makes no sense.
        """
        port = self._find(name)
        for what, limit in (("queue", queue_frames), ("queue-bytes", queue_bytes)):
            if limit is not None and limit < 1:
                raise ConfigError(f"port {name!r}: {what} is {limit}; give a number above 0")
        if burst is not None and not (port.rate if rate is None else rate):
            raise ConfigError(f"port {name!r}: a burst is of no use without a rate; give a rate too")
        if impairment is not None:
            port.impair(impairment)
        port.set(up=up, queue_frames=queue_frames, queue_bytes=queue_bytes, rate=rate, burst=burst)
        return port.snapshot()

    def inject(self, name: str, frame: bytes) -> None:
        """Forward a frame as if the port's peer had sent it. ConfigError: no such port, no such frame."""
        self._find(name).inject(frame)

    def unlearn(self, name: str) -> None:
        """Forget the addresses that a port's switch has learned there. ConfigError: no such port."""
        self._find(name).unlearn()

    def dial_now(self, name: str) -> None:
        """Let a port that dials try again at once. Nothing for other kinds. ConfigError: no such port."""
        self._find(name).dial_now()

    def set_carrier(self, name: str, up: bool) -> None:
        """Tell a port's peer whether its link has carrier, where it can see that. ConfigError: no such port."""
        self._find(name).set_carrier(up)

    # Captures

    async def capture(
        self,
        names: Sequence[str] = (),
        *,
        beside: str,
        links: Sequence[str] | None = None,
        expression: str | None = None,
        snaplen: int = DEFAULT_SNAPLEN,
        count: int | None = None,
        unit_link: UnitLink | None = None,
    ) -> str:
        """Offer a pcapng stream of these ports, or of all; of `links` unless they are None: of these, or of all.
        Returns the path of the Unix socket that has it.

        It waits some seconds for its one client, ends after `count` packets or when the client leaves, and lies at a
        path that begins with `beside`. `expression`: a filter in libpcap's language. `unit_link`: how packets of tun
        units begin, None: as the unit has it. ConfigError: no such port or link, not a filter; HostError: there is no
        libpcap.
        """
        choice = CaptureChoice(tuple(names), None if links is None else tuple(links), expression, unit_link)
        return await self._captures.start(
            lambda: self._running().dataplane, choice, beside=beside, snaplen=snaplen, count=count
        )

    def _joined(self) -> list[SegmentSnapshot]:
        """Which ports are on which segment. None once it has stopped, when captures may still be ending."""
        return [] if self._open is None else list(self._open.segments.snapshots(self._ports.values()))

    # What it looks like

    def snapshot(self) -> BackendSnapshot:
        """Ports in the order they came, the forwarding database by address. ConfigError before `start`."""
        running = self._running()
        self._drain()
        return BackendSnapshot(
            name=self.name,
            version=__version__,
            pid=os.getpid(),
            started=self._started,
            workers=self._workers,
            segments=running.segments.snapshots(self._ports.values()),
            ports=tuple(port.snapshot() for port in self._ports.values()),
        )

    def subscribe(self, callback: Callable[[BackendEvent], None]) -> Callable[[], None]:
        """Call `callback` for every event, on the loop's thread; returns what ends it."""
        self._callbacks.append(callback)

        def unsubscribe() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return unsubscribe

    # The engine

    def _open_engine(self) -> None:
        dataplane = self._engine(self._workers)
        self._open = _Open(dataplane, TunDriver(), Segments(dataplane))
        asyncio.get_running_loop().add_reader(dataplane.event_fd, self._drain)
        self._started = time.time()

    def _drain(self) -> None:
        if self._open is None:
            return
        for event in self._open.dataplane.drain_events():
            match event:
                case SessionEnded():
                    if (port := self._of_engine(event.port)) is not None:
                        port.ended(event)
                case RingStopped():
                    if (port := self._of_engine(event.port)) is not None:
                        port.ring_stopped(event)
                case WorkerDied():
                    self._fail(f"a worker of the engine died: {event.text}")
                case EventsLost():
                    self._fail(f"the engine lost {event.count} events: the state of the ports is unknown")
                case _:
                    assert_never(event)

    def _of_engine(self, number: int) -> Port | None:
        return next((port for port in self._ports.values() if port.engine_port == number), None)

    def _fail(self, text: str) -> None:
        log.critical("%s", text)
        if not self.failure.done():
            self.failure.set_result(text)

    def _pick_worker(self) -> int:
        load = [0] * self._workers
        for port in self._ports.values():
            load[port.worker] += port.engine_port is not None
        return load.index(min(load))

    async def _stop(self) -> None:
        if self._open is None:
            return
        dataplane, units = self._open.dataplane, self._open.units
        asyncio.get_running_loop().remove_reader(dataplane.event_fd)
        for port in self._ports.values():
            port.quiesce()
        ports, self._ports, self._open = list(self._ports.values()), {}, None
        await asyncio.to_thread(dataplane.close)
        for port in ports:
            port.engine_port = None
            port.finish("the backend stopped")
        units.shut_down()
        jobs = [port.cleanup() for port in ports]
        jobs += [session.close() for session in self._captures.sessions()]
        jobs += [] if self._own_devices is None else [self._own_devices.close_all()]
        self._own_devices = None
        try:
            async with asyncio.timeout(_CLEANUP_S):
                results = await asyncio.gather(*jobs, return_exceptions=True)
        except TimeoutError:
            log.error("cleaning up took longer than %.1f s: given up", _CLEANUP_S)
        else:
            for error in results:
                if isinstance(error, Exception):
                    log.error("cleaning up: %s", error, exc_info=error)

    # Ports

    def _port(self, name: str, spec: PortSpec, segment: str | None) -> Port:
        return make_port(self._context_of(segment), name, spec, self._host_devices)

    def _context_of(self, segment: str | None) -> PortContext:
        running = self._running()
        return PortContext(
            dataplane=running.dataplane,
            segment=running.segments.get(segment),
            units=running.units,
            queue_frames=self.queue_frames,
            emit=self._emit,
            drain=self._drain,
            pick_worker=self._pick_worker,
            taken=lambda: self._ports.keys() | self._starting,
            add=self._put,
            drop=self._drop,
            clock=time.time,
            random=random.random,
        )

    def _host_devices(self) -> HostDevices:
        if self._devices is not None:
            return self._devices
        if self._own_devices is None:
            self._own_devices = HostDevices()
        return self._own_devices

    async def _add(self, port: Port) -> PortSnapshot:
        try:
            port.create()
            self._put(port)
            await port.open()
        except BaseException:
            await self._remove(port)
            raise
        return port.snapshot()

    def _put(self, port: Port) -> None:
        self._ports[port.name] = port
        data: dict[str, JsonValue] = {"port": port.name, "kind": port.kind, "where": port.spec.text}
        self._emit("PORT_ADDED", data)

    async def _remove(self, port: Port) -> None:
        self._drop(port)
        await port.cleanup()

    def _drop(self, port: Port) -> None:
        """Remove a port, except for what its `cleanup` does."""
        if self._ports.get(port.name) is port:
            del self._ports[port.name]
            port.forget()
            self._emit("PORT_REMOVED", {"port": port.name})

    def _emit(self, name: EventName, data: dict[str, JsonValue]) -> None:
        event = BackendEvent(name, data, time.time())
        for callback in list(self._callbacks):
            callback(event)
        if name in ("PORT_ADDED", "PORT_REMOVED"):
            self._captures.changed()

    def _running(self) -> _Open:
        if self._open is None:
            raise ConfigError(f"backend {self.name!r} is not running; start it first")
        return self._open

    def _find(self, name: str) -> Port:
        self._running()
        if name not in self._ports:
            raise ConfigError(f"there is no port {name!r}; there are {', '.join(self._ports) or 'none'}")
        return self._ports[name]

    def _new_names(self, specs: Sequence[PortSpec], segment: str | None) -> list[str]:
        """A name for each port that is to join a segment. ConfigError: it cannot."""
        found = self._running().segments.get(segment)
        found.check(sum(port.segment is found for port in self._ports.values()), specs)
        return names_for(specs, self._ports)
