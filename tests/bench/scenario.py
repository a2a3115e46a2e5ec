"""What the bench measures: paths through a forwarder, frame sizes, frames per system call. Data only."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

__all__ = [
    "FORWARDERS",
    "RING_SIZE",
    "SCENARIOS",
    "TARGETS",
    "Device",
    "Forwarder",
    "Layout",
    "Path",
    "Scenario",
    "Suite",
    "select",
]

Device = Literal["tap", "tun"]
Layout = Literal["split", "packed"]


class Path(StrEnum):
    """From which side of the forwarder to which."""

    STREAM_STREAM = "stream-stream"
    STREAM_TAP = "stream-tap"
    TAP_STREAM = "tap-stream"
    STREAM_TAP_TCP = "stream-tap-tcp"
    STREAM_TUN = "stream-tun"
    TUN_STREAM = "tun-stream"
    VHOST_VHOST = "vhost-vhost"
    VHOST_VHOST_PACKED = "vhost-vhost-packed"

    @property
    def device(self) -> Device | None:
        """The kind of device of this host at one end; None: streams at both."""
        match self:
            case Path.STREAM_STREAM | Path.VHOST_VHOST | Path.VHOST_VHOST_PACKED:
                return None
            case Path.STREAM_TAP | Path.TAP_STREAM | Path.STREAM_TAP_TCP:
                return "tap"
            case Path.STREAM_TUN | Path.TUN_STREAM:
                return "tun"

    @property
    def from_device(self) -> bool:
        return self in (Path.TAP_STREAM, Path.TUN_STREAM)

    @property
    def layout(self) -> Layout | None:
        """Of the rings at both ends; None: it is no path between vhost-user front-ends."""
        match self:
            case Path.VHOST_VHOST:
                return "split"
            case Path.VHOST_VHOST_PACKED:
                return "packed"
            case _:
                return None

    @property
    def reference(self) -> "Forwarder":
        """To whose CPU time ratios are formed."""
        return Forwarder.DPDK if self.layout else Forwarder.FLOOR


class Forwarder(StrEnum):
    """Who forwards; see README.md."""

    FLOOR = "floor"
    VBACKEND = "vbackend"
    QEMU = "qemu"
    VDE = "vde"
    DPDK = "dpdk"

    @property
    def spins(self) -> bool:
        """It burns its core whether or not there are frames, so only one may run at a time."""
        return self is Forwarder.DPDK


class Suite(StrEnum):
    """What one run of the bench compares."""

    STREAM = "stream"
    TUN = "tun"
    VHOST = "vhost"

    @classmethod
    def of(cls, path: Path) -> "Suite":
        if path.layout:
            return cls.VHOST
        return cls.TUN if path.device == "tun" else cls.STREAM

    @property
    def scenarios(self) -> tuple["Scenario", ...]:
        return tuple(s for s in SCENARIOS if Suite.of(s.path) is self)

    @property
    def forwarders(self) -> tuple[Forwarder, ...]:
        """Those that can: only vbackend takes a tun or is a vhost-user back-end among the forwarders of streams."""
        match self:
            case Suite.STREAM:
                return (Forwarder.FLOOR, Forwarder.VBACKEND, Forwarder.QEMU, Forwarder.VDE)
            case Suite.TUN:
                return (Forwarder.FLOOR, Forwarder.VBACKEND)
            case Suite.VHOST:
                return (Forwarder.VBACKEND, Forwarder.DPDK)


FORWARDERS: Final = tuple(Forwarder)

# Bytes of frames that a Unix stream socket holds without making its writer wait: net.core.wmem_default, less overhead.
SOCKET_BYTES: Final = 192 << 10

# Buffers of a ring of native/vring.h.
RING_SIZE: Final = 1024


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row of the table."""

    path: Path
    size: int  # bytes of a frame, Ethernet header included; a tun's packets are 14 shorter
    burst: int  # frames per system call of the sender; vhost: made available at a time

    @property
    def name(self) -> str:
        return f"{self.path}/{self.size}/b{self.burst}"

    @property
    def mode(self) -> Literal["poll", "event", "tcp", ""]:
        """How the generator goes about it: see native/load.c and native/vhost_load.c, which spins with large bursts."""
        if self.path.layout:
            return "poll" if self.burst > 1 else "event"
        return "tcp" if self.path is Path.STREAM_TAP_TCP else ""

    def frames(self, base: int) -> int:
        """How many frames a round sends: more of the cheap ones, always whole bursts."""
        count = base * (5 if self.path.layout else 1) * (2 if self.burst > 1 else 1)
        return max(count // self.burst, 1) * self.burst

    def window(self, base: int) -> int:
        """How many frames may be on their way.

        Between streams more: wake-ups would hide what a frame of a burst costs. From a device to a stream no more than
        a socket holds: a floor that sleeps in its write finds full batches when it wakes, and no longer shows what
        reading and writing cost a forwarder that keeps up.
        """
        if self.path.layout:
            return min(base * 2, RING_SIZE // 2)
        if self.path is Path.STREAM_STREAM and self.burst > 1:
            return base * 4
        return min(base, SOCKET_BYTES // self.size) if self.path.from_device else base


SCENARIOS: Final = tuple(
    Scenario(path, size, burst)
    for path in Path
    for size in (64, 1514)
    for burst in (1, 32)
    if size == 1514 or path is not Path.STREAM_TAP_TCP  # which is about bulk
)

# The most CPU time per frame vbackend may need, as a multiple of the reference's.
TARGETS: Final = {
    **{s: 1.30 for s in SCENARIOS if s.path is Path.STREAM_STREAM and s.burst == 32},
    **{s: 1.15 for s in SCENARIOS if s.path is Path.STREAM_TAP},
    **{s: 0.33 for s in SCENARIOS if s.path is Path.STREAM_TAP_TCP and s.burst == 32},
    **{s: 1.15 for s in SCENARIOS if s.path.device == "tun"},
    **{s: 2.00 for s in SCENARIOS if s.path.layout and s.size == 64 and s.burst == 32},
}


def select(suite: Suite, only: Sequence[str]) -> tuple[Scenario, ...]:
    """The suite's scenarios whose name contains every one of `only`. ValueError when none does."""
    chosen = tuple(s for s in suite.scenarios if all(word in s.name for word in only))
    if not chosen:
        names = ", ".join(s.name for s in suite.scenarios)
        raise ValueError(f"--only {' '.join(only)}: no scenario has all of it in its name; there are {names}")
    return chosen
