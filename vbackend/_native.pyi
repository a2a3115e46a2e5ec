"""Typed face of the Rust engine. Only `vbackend.dataplane` imports it.

Port, segment and session numbers are small integers, never reused while the engine lives. Every call that takes an
`fd` takes ownership of it, also when it raises. All calls are thread-safe; none blocks longer than a worker's turn.
Host errors are `OSError` with their errno, wrong arguments `ValueError`, unknown ports or segments `KeyError`, a
closed engine, or one used after fork, `RuntimeError`.
"""

from typing import Final, final

__all__ = ["Capture", "Channel", "Engine", "Event", "build_info", "drop_reasons"]

def build_info() -> dict[str, str]:
    """`profile` ("release" or "dev") and `version` of the engine."""

def drop_reasons() -> list[tuple[str, str]]:
    """Every drop reason's name with one line that explains it, in counter order."""

@final
class Event:
    """Something a worker reports. `kind` is one of `session-ended`, `worker-died`, `events-lost`."""

    kind: Final[str]
    port: Final[int]
    session: Final[int]
    reason: Final[str]  # session-ended: "eof", "oversize", "error", "detached"; worker-died: the panic's text
    value: Final[int]  # oversize: the announced length; error: errno; events-lost: how many

@final
class Channel:
    """Python's end of a channel port. Frames are `bytes` with an Ethernet header."""

    def fileno(self) -> int:
        """An fd that polls readable exactly while a frame can be received, or the channel is closed."""

    def send(self, frame: bytes) -> bool:
        """Give one frame to the port. False: the queue towards the engine is full (counted as a drop by the port)."""

    def send_batch(self, frames: list[bytes]) -> int:
        """Give several; returns how many were taken."""

    def recv(self) -> bytes | None:
        """The next frame, or None when there is none. `OSError(ENXIO)` when the port is gone and nothing is left."""

    def recv_batch(self, most: int = 256) -> list[bytes]: ...
    def close(self) -> None: ...

@final
class Capture:
    """Where the packets of one capture are collected: pcapng packet blocks, little-endian, time in nanoseconds."""

    def __new__(cls, interfaces: int, *, limit_bytes: int = 4_194_304, count: int | None = None) -> Capture:
        """For so many ports. What does not fit into `limit_bytes` is lost and counted; `count` packets end it."""

    def fileno(self) -> int:
        """An fd that polls readable exactly while there is something to read, or the capture has ended."""

    def read(self, most: int) -> bytes:
        """The next bytes of blocks, up to `most`; they may end inside a block. b"" when there are none."""

    def counts(self) -> list[tuple[int, int, int]]:
        """Per interface: packets that passed the port, that were recorded, that passed the filter and did not fit."""

    @property
    def ended(self) -> bool:
        """Whether all was read and nothing more will come."""

    def end(self) -> None:
        """Record nothing more; what was recorded can still be read."""

@final
class Engine:
    def __new__(cls, workers: int = 1) -> Engine: ...
    @property
    def event_fd(self) -> int:
        """An eventfd, readable while `drain_events()` has something. Owned by the engine."""

    @property
    def workers(self) -> int: ...
    def add_switch(self, *, ageing_ms: int = 300_000, max_entries: int = 4096) -> int:
        """A learning switch. ValueError above 2**20 entries; without entries or age it floods everything."""

    def add_cable(self) -> int: ...
    def remove_segment(self, segment: int) -> None:
        """ValueError while ports are joined."""

    def add_port(
        self,
        *,
        queue_frames: int = 256,
        queue_bytes: int = 2_097_152,
        mac: bytes | None = None,
        isolated: bool = False,
        worker: int | None = None,
    ) -> int:
        """A port without a session. Frames for it are dropped (`no-peer`). `worker=None`: the one with fewest ports."""

    def remove_port(self, port: int) -> None:
        """End its session (drained), leave its segment, drop what is queued."""

    def join(self, port: int, segment: int) -> None:
        """ValueError: joined already, or a cable that has two ports."""

    def leave(self, port: int) -> None: ...
    def set_port(
        self,
        port: int,
        *,
        up: bool | None = None,
        queue_frames: int | None = None,
        queue_bytes: int | None = None,
    ) -> None: ...
    def attach_stream(self, port: int, fd: int) -> int:
        """Start a session on a connected stream socket; returns its number. ValueError while one runs."""

    def attach_dgram(
        self,
        port: int,
        fd: int,
        *,
        send_to: str | None = None,
        accept_from: str | None = None,
        send_fd: int | None = None,
    ) -> int:
        """Start a session on a bound datagram socket.

        `send_to`, `accept_from`: "unix:PATH", "unix:@NAME", "IP:PORT" or "[IP6]:PORT". Without `send_to` the socket is
        connected; without `accept_from` any sender is accepted but `send_fd`, a second, connected socket to send on
        (multicast).
        """

    def attach_tap(self, port: int, fd: int, *, vnet_hdr: bool) -> int:
        """An attached tap fd; with `vnet_hdr` its header size is 12."""

    def attach_tun(
        self,
        port: int,
        fd: int,
        *,
        packet_info: bool,
        mac: bytes,
        local: list[str],
        peers: list[str],
    ) -> int:
        """An attached tun fd behind an Ethernet adapter that answers ARP and neighbour solicitations with `mac`."""

    def attach_channel(self, port: int) -> Channel: ...
    def detach(self, port: int) -> None:
        """End the session in order: flush what the peer takes at once, drain what it sent, close. No event, unless the
        peer ended it meanwhile."""

    def capture(
        self,
        port: int,
        capture: Capture,
        interface: int,
        snaplen: int,
        filter: list[tuple[int, int, int, int]] | None,
    ) -> None:
        """Record the port's frames as number `interface` of the capture, up to `snaplen` bytes of those that `filter`
        accepts: a BPF program as (code, jt, jf, k). ValueError: no such interface, or no valid program."""

    def uncapture(self, port: int, capture: Capture) -> None:
        """End the port's part in the capture, if it has one."""

    def drain_events(self) -> list[Event]: ...
    def counters(self, port: int) -> dict[str, dict[str, int]]:
        """{"rx": {...}, "tx": {...}}: frames_in frames_out bytes_out queued, and `drop:REASON` for non-zero reasons.

        Consistent: frames_in == frames_out + queued + all drops, in each lane, at every moment.
        """

    def fdb(self, segment: int) -> list[tuple[bytes, int, int]]:
        """(MAC, port, age in ms) sorted by MAC; empty for a cable."""

    def close(self) -> None:
        """Drain and close every session, stop and join the workers. A second call does nothing."""
