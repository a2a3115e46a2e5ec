"""What a port is to be: the PORT argument of `vbackend run`, parsed.

    KIND:WHERE[,key=value]...

Only data: `parse.py` reads and writes the text form, the other modules here open what it names.
"""

from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from typing import Literal

from vbackend.ports.impairment import NO_IMPAIRMENT, Impairment
from vbackend.tun.vocabulary import Header, System

__all__ = [
    "Address",
    "ChannelSpec",
    "DgramMcastSpec",
    "DgramUdpSpec",
    "DgramUnixSpec",
    "PortOptions",
    "PortSpec",
    "StreamSpec",
    "TapSpec",
    "TcpAddress",
    "TunSpec",
    "UnitSpec",
    "UnixAddress",
    "VdeSpec",
    "VhostUserSpec",
    "takes_many",
]

Address = IPv4Interface | IPv6Interface


@dataclass(frozen=True, slots=True)
class UnixAddress:
    path: str  # a leading "@" means the abstract namespace


@dataclass(frozen=True, slots=True)
class TcpAddress:
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class PortOptions:
    """What every kind of port takes."""

    name: str | None = None  # None: derived from kind and place by the backend
    queue: int | None = None  # frames; None: the backend's default
    queue_bytes: int | None = None
    mac: bytes | None = (
        None  # 6 bytes; frames with another source address are dropped (on tap: also the device's address)
    )
    isolated: bool = False  # isolated ports do not see each other
    rate: int | None = None  # bits/s, of what goes to the peer; None: no limit
    burst: int | None = None  # bytes; None: what `rates.burst_for` finds right
    impairment: Impairment = NO_IMPAIRMENT  # of what goes to the peer


@dataclass(frozen=True, slots=True)
class StreamSpec:
    text: str  # as the user wrote it, KIND:WHERE only
    options: PortOptions
    address: UnixAddress | TcpAddress
    dial: bool = False
    multi: bool = False
    legacy: bool = False  # given as `socket:`, so `args` prints -netdev socket


@dataclass(frozen=True, slots=True)
class DgramUnixSpec:
    text: str
    options: PortOptions
    local: UnixAddress
    remote: UnixAddress


@dataclass(frozen=True, slots=True)
class DgramUdpSpec:
    text: str
    options: PortOptions
    local: TcpAddress
    remote: TcpAddress
    legacy: bool = False


@dataclass(frozen=True, slots=True)
class DgramMcastSpec:
    text: str
    options: PortOptions
    group: str  # IPv4 multicast address
    port: int
    interface: str | None = None  # local IPv4 address that selects the interface (key `local=`)
    legacy: bool = False


@dataclass(frozen=True, slots=True)
class TapSpec:
    text: str
    options: PortOptions
    ifname: str
    addresses: tuple[Address, ...] = ()
    bridge: str | None = None
    netns: str | None = None
    owner: str | None = None  # user name or number
    mtu: int | None = None
    offloads: bool = (
        True  # frames carry a virtio-net header: partial checksums and 64 KiB of TCP cross as they are
    )
    made_mac: bytes | None = None  # address of a device that is made, when `mac` says none; has no text form


@dataclass(frozen=True, slots=True)
class TunSpec:
    text: str
    options: PortOptions
    ifname: str
    addresses: tuple[Address, ...] = ()  # the host's end of the link; may repeat (one IPv4, one IPv6)
    peers: tuple[Address, ...] = ()  # the guest's end
    netns: str | None = None
    owner: str | None = None
    mtu: int | None = None
    packet_info: bool = False  # the device has packet information (no IFF_NO_PI)


@dataclass(frozen=True, slots=True)
class UnitSpec:
    """A tun unit whose reader is a program: over a socket, or (`address` None) in this process."""

    text: str
    options: PortOptions
    address: UnixAddress | None
    addresses: tuple[Address, ...] = ()  # the unit's; at most one IPv4 and one IPv6
    peers: tuple[Address, ...] = ()  # the guest's
    header: Header = "none"
    mtu: int | None = None
    mode: Literal["pointopoint", "broadcast"] | None = None  # None: point to point
    family: System = "netbsd"  # whose address family numbers


@dataclass(frozen=True, slots=True)
class VhostUserSpec:
    """A guest whose rings are in shared memory; the socket is for control (QEMU docs/interop/vhost-user)."""

    text: str
    options: PortOptions
    address: UnixAddress
    dial: bool = False
    queues: int = 1  # pairs, 1 to 16
    packed: bool = True  # packed rings are offered
    offloads: bool = True  # checksum and segmentation offloads are offered
    busy_poll: int = 0  # µs a worker looks at idle rings before it sleeps
    mtu: int | None = None  # told to the guest


@dataclass(frozen=True, slots=True)
class VdeSpec:
    """A VDE switch's directory: each of its clients is a port of its own."""

    text: str
    options: PortOptions
    directory: str
    mode: int | None = None  # of the sockets; None: 0600
    group: str | None = None  # name or number; None: as the directory's parent has it


@dataclass(frozen=True, slots=True)
class ChannelSpec:
    """A port whose other end is Python code in this process; has no text form."""

    text: str
    options: PortOptions


PortSpec = (
    StreamSpec
    | DgramUnixSpec
    | DgramUdpSpec
    | DgramMcastSpec
    | TapSpec
    | TunSpec
    | UnitSpec
    | VhostUserSpec
    | VdeSpec
    | ChannelSpec
)


def takes_many(spec: PortSpec) -> bool:
    """Whether the port is for any number of guests, each of which gets a port of its own."""
    return isinstance(spec, VdeSpec) or (isinstance(spec, StreamSpec) and spec.multi)
