"""The vocabulary of vhost-user for a network device: requests come in, commands and answers go out. Pure.

Numbers and payloads are those of QEMU's docs/interop/vhost-user.rst; addresses, sizes and offsets are bytes.
"User address": in the address space of the front-end's process. Rings are numbered as in the protocol.
"""

from dataclasses import dataclass
from enum import IntEnum

from vbackend.fds import OwnedFd

__all__ = [
    "AddMemory",
    "Announce",
    "Answer",
    "Command",
    "EnableRing",
    "KeepBackendChannel",
    "Log",
    "Message",
    "Payload",
    "Region",
    "RemoveMemory",
    "Request",
    "RingAddresses",
    "RingBase",
    "RingState",
    "SetCall",
    "SetErr",
    "SetFeatures",
    "SetKick",
    "SetLog",
    "SetLogCall",
    "SetMemory",
    "StartRing",
    "Step",
    "StopRing",
]


class Request(IntEnum):
    """Front-end message types, also those that no network device has, so that errors can name them."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SEND_RARP = 19
    NET_SET_MTU = 20
    SET_BACKEND_REQ_FD = 21
    IOTLB_MSG = 22
    SET_VRING_ENDIAN = 23
    GET_CONFIG = 24
    SET_CONFIG = 25
    CREATE_CRYPTO_SESSION = 26
    CLOSE_CRYPTO_SESSION = 27
    POSTCOPY_ADVISE = 28
    POSTCOPY_LISTEN = 29
    POSTCOPY_END = 30
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32
    GPU_SET_SOCKET = 33
    RESET_DEVICE = 34
    VRING_KICK = 35
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40
    GET_SHARED_OBJECT = 41
    SET_DEVICE_STATE_FD = 42
    CHECK_DEVICE_STATE = 43


# What requests carry


@dataclass(frozen=True, slots=True)
class RingState:
    """A ring and a number: its size, base, or whether it is enabled."""

    ring: int
    number: int


@dataclass(frozen=True, slots=True)
class RingAddresses:
    """User addresses of a ring's three parts; `flags` bit 0: its writes are logged, at guest address `log`."""

    ring: int
    flags: int
    descriptors: int  # descriptor table; packed: descriptor ring
    device: int  # used ring; packed: device event suppression
    driver: int  # available ring; packed: driver event suppression
    log: int


@dataclass(frozen=True, slots=True)
class Region:
    """A piece of guest memory, at `offset` of a file."""

    guest_address: int
    size: int
    user_address: int
    offset: int

    def __str__(self) -> str:
        return f"{self.size:#x} bytes at guest address {self.guest_address:#x}"


@dataclass(frozen=True, slots=True)
class Log:
    """Where the dirty log lies in its file."""

    size: int
    offset: int


Payload = None | int | RingState | RingAddresses | tuple[Region, ...] | Region | Log


@dataclass(frozen=True, slots=True)
class Message:
    """One request. Its descriptors stay the reader's; a command that takes one over empties it."""

    request: Request
    payload: Payload = None
    fds: tuple[OwnedFd, ...] = ()
    need_reply: bool = False


# Commands, in the order in which they are to be carried out


@dataclass(frozen=True, slots=True)
class SetFeatures:
    """The acknowledged features; also while rings run, when only LOG_ALL changes."""

    features: int


@dataclass(frozen=True, slots=True)
class SetMemory:
    """The whole memory of the guest, in place of what there was, all at once."""

    regions: tuple[Region, ...]
    fds: tuple[OwnedFd, ...]  # one for each


@dataclass(frozen=True, slots=True)
class AddMemory:
    region: Region
    fd: OwnedFd


@dataclass(frozen=True, slots=True)
class RemoveMemory:
    region: Region


@dataclass(frozen=True, slots=True)
class SetLog:
    """Where to log written pages while LOG_ALL is on."""

    log: Log
    fd: OwnedFd


@dataclass(frozen=True, slots=True)
class SetLogCall:
    """What to signal when pages were logged; None: nothing, the front-end looks itself."""

    fd: OwnedFd | None


@dataclass(frozen=True, slots=True)
class StartRing:
    ring: int
    size: int  # descriptors
    base: int  # as in SET_VRING_BASE
    addresses: RingAddresses


@dataclass(frozen=True, slots=True)
class StopRing:
    """`FrontEnd.stopped` wants to know where it stood."""

    ring: int


@dataclass(frozen=True, slots=True)
class EnableRing:
    """Let a running ring forward, or not."""

    ring: int
    enabled: bool


@dataclass(frozen=True, slots=True)
class SetKick:
    """What the front-end signals; None: look without being told."""

    ring: int
    fd: OwnedFd | None


@dataclass(frozen=True, slots=True)
class SetCall:
    """What to signal when buffers were used; None: nothing. A pipe will do (user-mode Linux)."""

    ring: int
    fd: OwnedFd | None


@dataclass(frozen=True, slots=True)
class SetErr:
    """What to signal when the ring makes no sense; None: nothing."""

    ring: int
    fd: OwnedFd | None


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell everybody on the segment that the guest with this address is here."""

    mac: bytes


@dataclass(frozen=True, slots=True)
class KeepBackendChannel:
    """The socket for requests of the back-end: there are none, but it must stay open."""

    fd: OwnedFd


Command = (
    SetFeatures
    | SetMemory
    | AddMemory
    | RemoveMemory
    | SetLog
    | SetLogCall
    | StartRing
    | StopRing
    | EnableRing
    | SetKick
    | SetCall
    | SetErr
    | Announce
    | KeepBackendChannel
)


@dataclass(frozen=True, slots=True)
class RingBase:
    """The answer to GET_VRING_BASE: where the ring stands once the commands are carried out."""

    ring: int


Answer = int | RingBase  # a u64, or a ring's state


@dataclass(frozen=True, slots=True)
class Step:
    """What a request leads to."""

    commands: tuple[Command, ...] = ()
    answer: Answer | None = None
