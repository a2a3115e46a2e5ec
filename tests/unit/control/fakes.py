"""A small backend without an engine, and snapshots with plausible numbers."""

import asyncio
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from vbackend.capture.pcapng import DEFAULT_SNAPLEN, Interface, Statistics, UnitLink, head, statistics
from vbackend.control.api import Event
from vbackend.errors import ConfigError
from vbackend.ports.impairment import NO_IMPAIRMENT, Impairment, changed_impairment
from vbackend.ports.spec import PortSpec
from vbackend.snapshot import (
    BackendSnapshot,
    FdbEntry,
    ImpairmentSnapshot,
    LaneCounters,
    PortSnapshot,
    SegmentSnapshot,
    SessionInfo,
)

__all__ = ["FakeBackend", "FakeEvent", "busy_backend", "port", "said"]


@dataclass(frozen=True)
class FakeEvent:
    name: str
    data: dict[str, JsonValue]
    time: float


def _impairment(words: Impairment | Mapping[str, str] | None) -> ImpairmentSnapshot | None:
    if words is None:
        return None
    new = words if isinstance(words, Impairment) else changed_impairment(NO_IMPAIRMENT, words)
    return ImpairmentSnapshot(settings=new.settings())


def port(name: str, where: str = "stream:unix:/tmp/a.sock") -> PortSnapshot:
    """An idle listening port."""
    return PortSnapshot(
        name=name,
        kind="stream",
        where=where,
        up=True,
        state="listening",
        queue_frames=256,
        queue_bytes=2_097_152,
        rx=LaneCounters(),
        tx=LaneCounters(),
    )


async def said(fd: int, deadline: float = 30.0) -> bytes:
    """What can be read from a pipe as soon as something can, without a thread that could wait for ever."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def readable() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(fd, readable)
    try:
        await asyncio.wait_for(ready, deadline)
    finally:
        loop.remove_reader(fd)
    return os.read(fd, 100)


class FakeBackend:
    """Keeps a list of ports and tells subscribers of changes, as `vbackend.backend.Backend` does."""

    def __init__(self) -> None:
        self.ports = {"a": port("a"), "b": port("b", "stream:unix:/tmp/b.sock")}
        self.captures: list[tuple[str | None, int, int | None, UnitLink | None]] = []
        self.injected: list[tuple[str, bytes]] = []
        self.links: list[Sequence[str] | None] = []  # of the captures
        self.most: int | None = None  # packets of captures without a count
        self.callbacks: list[Callable[[Event], None]] = []
        self.fault: BaseException | None = None  # raised by the next change

    def snapshot(self) -> BackendSnapshot:
        segment = SegmentSnapshot(name="default", kind="switch", ports=tuple(self.ports))
        return BackendSnapshot(
            name="default",
            version="1.2.3",
            pid=4711,
            started=1_000_000.25,
            workers=1,
            segments=(segment,),
            ports=tuple(self.ports.values()),
        )

    async def add_port(self, spec: PortSpec) -> PortSnapshot:
        self._maybe_fail()
        name = spec.options.name or f"port{len(self.ports)}"
        self.ports[name] = port(name, spec.text)
        self.emit("PORT_ADDED", {"port": name})
        return self.ports[name]

    async def remove_port(self, name: str) -> None:
        self._maybe_fail()
        self._find(name)
        del self.ports[name]
        self.emit("PORT_REMOVED", {"port": name})

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
        self._maybe_fail()
        changes = {
            "up": up,
            "queue_frames": queue_frames,
            "queue_bytes": queue_bytes,
            "rate": rate,
            "burst": burst,
            "impairment": _impairment(impairment),
        }
        given = {key: value for key, value in changes.items() if value is not None}
        self.ports[name] = self._find(name).model_copy(update=given)
        return self.ports[name]

    def inject(self, name: str, frame: bytes) -> None:
        self._maybe_fail()
        self._find(name)
        self.injected.append((name, frame))

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
        """A capture of two empty packets of every port, and of nothing more until the client leaves."""
        self._maybe_fail()
        found = [self._find(name) for name in names] or list(self.ports.values())
        self.captures.append((expression, snaplen, count, unit_link))
        self.links.append(links)
        interfaces = [Interface(port.name, port.where) for port in found]
        packet = struct.pack("<IIIIIIIIIII", 6, 44, 0, 0, 0, 0, 0, 0x40002, 1, 0, 44)
        data = head("fake", interfaces, snaplen, expression) + packet * 2
        path = f"{beside}.capture-1"

        counts = [Statistics(5, 2, 3)] + [Statistics(0, 0, 0)] * (len(found) - 1)
        last = statistics(counts, started_ns=0, ended_ns=1, filtered=False)
        listener = socket.create_server(path, family=socket.AF_UNIX)
        listener.settimeout(20)

        def serve() -> None:
            with listener, listener.accept()[0] as client, suppress(ConnectionError):
                Path(path).unlink()
                client.sendall(data)
                if count is None and self.most is None:
                    client.recv(1)
                client.sendall(last)

        threading.Thread(target=serve).start()
        return path

    def subscribe(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        self.callbacks.append(callback)
        return lambda: self.callbacks.remove(callback)

    def emit(self, name: str, data: dict[str, JsonValue]) -> None:
        for callback in list(self.callbacks):
            callback(FakeEvent(name, data, time.time()))

    def _find(self, name: str) -> PortSnapshot:
        if name not in self.ports:
            raise ConfigError(f"there is no port {name!r}; there are {', '.join(self.ports)}")
        return self.ports[name]

    def _maybe_fail(self) -> None:
        fault, self.fault = self.fault, None
        if fault is not None:
            raise fault


def busy_backend() -> BackendSnapshot:
    """A switch with two guests, a tap and a port whose peer is away, after some traffic."""
    guest = PortSnapshot(
        name="web",
        kind="stream",
        where="stream:unix:/run/user/1000/lab/web.sock",
        up=True,
        state="connected",
        session=SessionInfo(number=2, peer="unix pid 4711 (qemu-system-x86)", since=1_000_030.0),
        sessions=2,
        refused=1,
        last_end="the peer closed the connection",
        queue_frames=256,
        queue_bytes=2_097_152,
        mac="52:54:00:00:00:01",
        rx=LaneCounters(
            frames_in=1_234_570, frames_out=1_234_567, bytes_out=1_870_000_123, drops={"source-mac": 3}
        ),
        tx=LaneCounters(
            frames_in=700_000,
            frames_out=698_000,
            bytes_out=55_000_000,
            queued=12,
            drops={"queue-full": 1_900, "no-peer": 88},
        ),
    )
    host = PortSnapshot(
        name="host",
        kind="tap",
        where="tap:vb0",
        up=True,
        state="connected",
        session=SessionInfo(number=1, peer="vb0 (namespace lab)", since=1_000_000.5),
        sessions=1,
        queue_frames=64,
        queue_bytes=2_097_152,
        rx=LaneCounters(frames_in=10, frames_out=10, bytes_out=900),
        tx=LaneCounters(frames_in=9, frames_out=9, bytes_out=810),
    )
    away = PortSnapshot(
        name="db",
        kind="stream",
        where="stream:tcp:192.0.2.17:5555",
        up=True,
        state="dialling",
        detail="connection refused, again in 2.0 s",
        queue_frames=256,
        queue_bytes=2_097_152,
        isolated=True,
        rx=LaneCounters(),
        tx=LaneCounters(frames_in=41, drops={"no-peer": 41}),
    )
    down = port("spare").model_copy(update={"up": False, "state": "down", "detail": "set down"})
    fdb = (
        FdbEntry(mac="52:54:00:00:00:01", port="web", age=0.4),
        FdbEntry(mac="fe:01:02:03:04:05", port="host", age=75.0),
    )
    segment = SegmentSnapshot(name="lab", kind="switch", ports=("web", "host", "db", "spare"), fdb=fdb)
    return BackendSnapshot(
        name="lab",
        version="0.1.0",
        pid=321,
        started=1_000_000.0,
        workers=2,
        segments=(segment,),
        ports=(guest, host, away, down),
    )
