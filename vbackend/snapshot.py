"""What a running backend looks like at one moment: the answer of `query-status`, the food of `vbackend show`.

Pydantic models, so that the JSON on the control socket and the objects in Python cannot drift apart.
rx and tx are the backend's view: rx came from the port's peer, tx goes to it.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "BackendSnapshot",
    "FdbEntry",
    "ImpairmentSnapshot",
    "LaneCounters",
    "PortSnapshot",
    "RingSnapshot",
    "SegmentSnapshot",
    "SessionInfo",
    "UnitSnapshot",
    "VhostSnapshot",
]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LaneCounters(_Model):
    """One direction of a port. `frames_in = frames_out + sum(drops.values()) + queued` holds at every moment.

    rx lane: in = frames the peer sent, out = frames given to the segment.
    tx lane: in = frames the segment gave to the port, out = frames the peer's socket or device took.
    """

    frames_in: int = 0
    frames_out: int = 0
    bytes_out: int = 0
    queued: int = 0
    drops: dict[str, int] = Field(default_factory=dict)  # DropReason name -> frames; only non-zero ones

    @property
    def dropped(self) -> int:
        return sum(self.drops.values())


class SessionInfo(_Model):
    """The connection a port has now."""

    number: int  # counts up with every session of the port, from 1
    peer: str  # "unix pid 4711 (qemu-system-x86)", "127.0.0.1:5555", "tap0 (namespace lab)"
    since: float  # seconds since the epoch


class UnitSnapshot(_Model):
    """The tun unit behind a port, in the driver's words."""

    name: str  # "tun0"
    flags: tuple[str, ...]  # OPEN, INITED, IASET, DSTADDR, RWAIT, ASYNC, NBIO, PREPADDR
    if_flags: tuple[str, ...]  # UP, POINTOPOINT, BROADCAST, RUNNING, MULTICAST, ...
    addresses: tuple[str, ...]  # "10.7.0.1 -> 10.7.0.2"
    mtu: int
    tunmtu: int  # the longest packet that may be written
    mode: Literal["pointopoint", "broadcast"]
    header: str  # of the device face
    family: str  # whose address family numbers
    queue_len: int
    queue_limit: int
    counters: dict[
        str, int
    ]  # ipackets ibytes opackets obytes ierrors oerrors collisions drops input_drops purged


class RingSnapshot(_Model):
    """One ring of a vhost-user session. Even ones go to the guest, odd ones come from it."""

    index: int
    size: int  # descriptors
    running: bool
    enabled: bool
    kicks: int = 0  # signals from the guest
    calls: int = 0  # signals to it
    frames: int = 0
    problem: str = ""  # why it does not run although it should


class VhostSnapshot(_Model):
    """What the front-end of a vhost-user port has negotiated and set up."""

    features: tuple[str, ...]  # acknowledged, by the specification's names: VERSION_1, MRG_RXBUF, ...
    protocol_features: tuple[str, ...]
    rings: tuple[RingSnapshot, ...]  # those it has given a size
    mtu: int | None  # what it said the guest uses
    memory: int  # bytes of guest memory


class ImpairmentSnapshot(_Model):
    """What happens to the frames for a port's peer, and to how many it did since it was set."""

    settings: dict[str, str]  # as `vbackend set` takes them: {"delay": "50ms", "loss": "1%", "seed": "7"}
    lost: int = 0
    duplicated: int = 0
    corrupted: int = 0
    delayed: int = 0
    reordered: int = 0
    held_frames: int = 0  # on their way now; they are among the lane's queued ones
    held_bytes: int = 0  # the memory they take


class PortSnapshot(_Model):
    name: str
    kind: Literal["stream", "dgram", "tap", "tun", "unit", "tunfile", "channel", "vhost-user", "vde"]
    where: str  # the KIND:WHERE it was given, e.g. "stream:unix:/tmp/a.sock"
    up: bool  # admin state
    state: Literal["listening", "dialling", "connected", "down", "failed"]
    detail: str = ""  # why it is in that state, for humans ("dialling: connection refused, again in 2.0 s")
    session: SessionInfo | None = None
    sessions: int = 0  # how many there have been
    refused: int = 0  # peers turned away because one was connected already
    last_end: str = ""  # why the last session ended
    queue_frames: int
    queue_bytes: int
    rate: int | None = None  # bits/s to the peer at most
    burst: int | None = None  # bytes that may leave at once after a silence; None without a rate
    impairment: ImpairmentSnapshot | None = None  # of what goes to the peer
    mac: str | None = None  # anti-spoof address
    isolated: bool = False
    parent: str | None = None  # the `multi` port this one was accepted on
    worker: int = 0
    unit: UnitSnapshot | None = None
    vhost: VhostSnapshot | None = None  # while a front-end is connected
    rx: LaneCounters
    tx: LaneCounters


class FdbEntry(_Model):
    mac: str
    port: str
    age: float  # seconds since the address was last seen as a source


class SegmentSnapshot(_Model):
    name: str
    kind: Literal["switch", "cable"]
    ports: tuple[str, ...]
    fdb: tuple[FdbEntry, ...] = ()


class BackendSnapshot(_Model):
    name: str
    version: str
    pid: int
    started: float  # seconds since the epoch
    workers: int
    segments: tuple[SegmentSnapshot, ...]
    ports: tuple[PortSnapshot, ...]
