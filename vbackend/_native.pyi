"""Typed face of the Rust engine. Only `vbackend.dataplane` imports it.

Port, segment and session numbers are small integers, never reused while the engine lives. Every call that takes an
`fd` takes ownership of it, also when it raises. All calls are thread-safe; none blocks longer than a worker's turn.
Host errors are `OSError` with their errno, wrong arguments `ValueError`, unknown ports or segments `KeyError`, a
closed engine, or one used after fork, `RuntimeError`.
"""

from ipaddress import IPv4Address, IPv6Address
from typing import Final, final

__all__ = ["Capture", "Channel", "Engine", "Event", "TunUnit", "build_info", "drop_reasons", "send_sigio"]

def build_info() -> dict[str, str]:
    """`profile` ("release" or "dev") and `version` of the engine."""

def drop_reasons() -> list[tuple[str, str]]:
    """Every drop reason's name with one line that explains it, in counter order."""

@final
class Event:
    """Something a worker reports. `kind` is one of `session-ended`, `ring-stopped`, `worker-died`, `events-lost`."""

    kind: Final[str]
    port: Final[int]
    session: Final[int]
    reason: Final[str]  # session-ended: "eof", "oversize", "error", "detached", "memory"; else words
    value: Final[
        int
    ]  # oversize: the announced length; error: errno; ring-stopped: the ring; events-lost: how many

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

def send_sigio(owner: int, code: int) -> None:
    """SIGIO to a process, or to the process group of a negative number; `code` is si_code where the kernel lets it."""

@final
class TunUnit:
    """The per-packet half of a tun unit. `vbackend.tun` decides its state; packets never wait for Python.

    Errors are `OSError` with the errno of the rules in if_tun.c. `ticket`: of the open instance that calls; EBADF when
    that is closed.
    """

    def __new__(cls, *, queue: int = 256, input_queue: int = 256) -> TunUnit: ...
    def set_state(
        self, *, flags: int, index: int, ticket: int, tunmtu: int, header: str, system: str, owner: int
    ) -> None:
        """Mirror what was decided: all at once. `header`, `system`: names of vbackend.tun.vocabulary."""

    def purge(self) -> int:
        """Drop and count what is in if_snd; returns how many packets."""

    def reset_interface(self) -> None:
        """All counters 0, the input queue empty."""

    def wake(self) -> None:
        """Let sleeping readers look again."""

    def set_limit(self, frames: int) -> None: ...
    def set_rate(self, bits_per_s: int, burst_bytes: int) -> None:
        """0 bits/s: no limit."""

    def held(self) -> bool:
        """Whether the rate holds packets back now."""

    def start(self) -> int | None:
        """Wake who waits, if packets that were held back may leave now; else after how many ms to call again."""

    def view(self) -> dict[str, int]:
        """Counters by the driver's names, input_drops, purged; queued, input (packets); reader_waits (0, 1)."""

    def output(
        self, packet: bytes, family: int, destination: IPv4Address | IPv6Address | str | None = None
    ) -> None:
        """`family`: 0, or an AF_ number of any system."""

    def take_input(self) -> tuple[int, bytes] | None:
        """IP version and packet."""

    def read(self, ticket: int, size: int, *, nonblocking: bool | None = None) -> bytes:
        """`nonblocking=None`: as NBIO says."""

    def count_copy_error(self) -> None: ...
    def read_batch(self, ticket: int, most: int = 256) -> list[bytes]: ...
    def write(self, ticket: int, data: bytes) -> int: ...
    def capture(
        self,
        capture: Capture,
        interface: int,
        *,
        link: str,
        snaplen: int,
        filter: list[tuple[int, int, int, int]] | None,
    ) -> None:
        """As `Engine.capture`; `link`: "null", "loop" or "raw"."""

    def uncapture(self, capture: Capture) -> None: ...
    def detach_captures(self) -> None:
        """End the unit's part in all captures."""

    def first_len(self) -> int: ...
    def readable(self) -> bool: ...
    def poll_fd(self, ticket: int) -> int:
        """Owned by the unit, until the open instance is closed."""

@final
class Capture:
    """Where the packets of one capture are collected: pcapng packet blocks, little-endian, time in nanoseconds."""

    def __new__(cls, interfaces: int, *, limit_bytes: int = 4_194_304, count: int | None = None) -> Capture:
        """For so many ports. What does not fit into `limit_bytes` is lost and counted; `count` packets end it."""

    def add_interface(self, description: bytes) -> int | None:
        """Another interface, whose description (a whole block) comes in front of its first packet; its number.
        None: the capture has ended, or has 4096."""

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
        rate: int | None = None,
        burst: int | None = None,
    ) -> None:
        """Change what is not None. `rate`: bits/s to the peer, with `burst` in bytes; 0, without one: no limit."""

    def set_impairment(
        self,
        port: int,
        *,
        delay_us: int,
        jitter_us: int,
        overtake: bool,
        loss: float,
        gilbert: tuple[float, float, float, float] | None,
        duplicate: float,
        corrupt: float,
        reorder: float,
        seed: int,
        limit_frames: int,
        limit_bytes: int,
    ) -> None:
        """Let the way to the port's peer be a bad line; `gilbert` is p, r, 1-h, 1-k in the place of `loss`. The random
        numbers and the counts begin anew, what is on its way keeps its time. ValueError: no probability, a jitter above
        the delay, reordering without one."""

    def clear_impairment(self, port: int) -> None:
        """A good line again; what is on its way keeps its time, and what comes stays behind it."""

    def impairment(self, port: int) -> dict[str, int] | None:
        """lost, duplicated, corrupted, delayed, reordered since it was set; held_frames, held_bytes. None: no such."""

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

    def attach_tap(self, port: int, fd: int, *, vnet_hdr: bool, uso: bool = False) -> int:
        """An attached tap fd; with `vnet_hdr` its header size is 12 and the host takes offloads, with `uso` all."""

    def attach_unit(
        self,
        port: int,
        unit: TunUnit,
        *,
        mac: bytes,
        pointopoint: bool,
        local: list[IPv4Address | IPv6Address],
        peers: list[IPv4Address | IPv6Address],
        broadcasts: list[IPv4Address],
    ) -> int:
        """The port is the far side of a tun unit, behind an Ethernet adapter that answers ARP and neighbour
        solicitations with `mac`. What is written to the unit is the port's from now on."""

    def configure_unit(
        self,
        port: int,
        *,
        mac: bytes,
        pointopoint: bool,
        local: list[IPv4Address | IPv6Address],
        peers: list[IPv4Address | IPv6Address],
        broadcasts: list[IPv4Address],
    ) -> None:
        """Change the adapter; what it learned stays. ValueError: not a unit's port."""

    def attach_reader(self, port: int, fd: int, *, device: bool) -> int:
        """The engine reads and writes the port's unit: an attached tun device, or a connected SOCK_SEQPACKET socket.
        Before the unit is opened. Returns the session's number; ValueError while one runs."""

    def detach_reader(self, port: int) -> None:
        """End that in order, if it runs; the unit is not open any more. No event."""

    def report_errors(self, port: int, fd: int | None) -> None:
        """Send a line "NUMBER ERRNO TEXT" for each write of the reader's that is refused."""

    def attach_vhost(self, port: int, *, busy_poll_us: int = 0) -> int:
        """Start a vhost-user session without memory and rings; returns its number. The control socket stays with
        Python. It lasts until `detach`, or `session-ended` with `memory`: the file behind guest memory was truncated.

        Rings are numbered as in the protocol, at most 32. Every call is carried out between two turns of the port's
        worker. A ring that makes no sense is stopped (`ring-stopped`), its err fd signalled; a new start cures it."""

    def vhost_features(self, port: int, features: int) -> None:
        """Acknowledged VIRTIO features; LOG_ALL also while rings run."""

    def vhost_set_memory(self, port: int, regions: list[tuple[int, int, int, int, int]]) -> None:
        """(guest address, size, user address, offset, fd): the whole table at once. ValueError, OSError: no change."""

    def vhost_add_memory(
        self, port: int, guest_address: int, size: int, user_address: int, offset: int, fd: int
    ) -> None: ...
    def vhost_remove_memory(self, port: int, guest_address: int, size: int, user_address: int) -> None: ...
    def vhost_start_ring(
        self, port: int, ring: int, *, size: int, base: int, descriptors: int, driver: int, device: int
    ) -> None:
        """User addresses, as in SET_VRING_ADDR; `base` as in SET_VRING_BASE. A running ring is stopped first.
        ValueError: not in memory, misaligned, no size of a ring."""

    def vhost_stop_ring(self, port: int, ring: int) -> int | None:
        """The base that GET_VRING_BASE answers; None: it was not running."""

    def vhost_enable_ring(self, port: int, ring: int, enabled: bool) -> None:
        """Kept over stop and start; rings begin disabled."""

    def vhost_set_kick(self, port: int, ring: int, fd: int | None) -> None:
        """None: the ring is polled."""

    def vhost_set_call(self, port: int, ring: int, fd: int | None) -> None:
        """None: no interrupts."""

    def vhost_set_err(self, port: int, ring: int, fd: int | None) -> None: ...
    def vhost_set_log(self, port: int, size: int, offset: int, fd: int | None) -> None:
        """The dirty log, one bit for each page of 4096 bytes; None: none."""

    def vhost_set_log_call(self, port: int, fd: int | None) -> None:
        """What to signal when the log changed; None: nothing."""

    def vhost_rings(self, port: int) -> list[dict[str, int]]:
        """One for each ring touched so far: ring, running, enabled, size, kicks, calls, frames, packed."""

    def attach_channel(self, port: int) -> Channel: ...
    def detach(self, port: int) -> None:
        """End the session in order: flush what the peer takes at once, drain what it sent, close. No event, unless the
        peer ended it meanwhile."""

    def capture(
        self,
        port: int,
        capture: Capture,
        interface: int,
        *,
        lane: str,
        link: str,
        snaplen: int,
        filter: list[tuple[int, int, int, int]] | None,
    ) -> None:
        """Record the port's frames as number `interface` of the capture, up to `snaplen` bytes of those that `filter`
        accepts: a BPF program as (code, jt, jf, k). `lane`: "both" (each packet has its direction), "rx", "tx", or
        "rx-lost": what the peer sent and no other port got. `link`: "ethernet"; packets of a unit: "null", "loop" or
        "raw".
        ValueError: no such interface, lane or link, or no valid program."""

    def uncapture(self, port: int, capture: Capture) -> None:
        """End the port's part in the capture, in all interfaces, if it has one."""

    def unlearn(self, port: int) -> None:
        """Forget the addresses that the port's switch has learned there."""

    def inject(self, port: int, frame: bytes) -> None:
        """Forward a frame as if the port's peer had sent it. ValueError: it is too short or too long."""

    def drain_events(self) -> list[Event]: ...
    def counters(self, port: int) -> dict[str, dict[str, int]]:
        """{"rx": {...}, "tx": {...}}: frames_in frames_out bytes_out queued, and `drop:REASON` for non-zero reasons.

        Consistent: frames_in == frames_out + queued + all drops, in each lane, at every moment.
        """

    def fdb(self, segment: int) -> list[tuple[bytes, int, int]]:
        """(MAC, port, age in ms) sorted by MAC; empty for a cable."""

    def close(self) -> None:
        """Drain and close every session, stop and join the workers. A second call does nothing."""
