"""vhost-user messages as bytes, by `struct`; nothing is checked, so that anything can be said.

Source: QEMU docs/interop/vhost-user.rst. A message is a header of three little-endian words, request, flags and
payload length, then the payload; descriptors ride on its first byte as SCM_RIGHTS.
"""

import array
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

__all__ = [
    "BASIC_FEATURES",
    "BASIC_PROTOCOL",
    "HEADER",
    "MOST_FDS",
    "NEED_REPLY",
    "NO_FD",
    "REPLY",
    "VERSION",
    "Feature",
    "Message",
    "Protocol",
    "Request",
    "log_area",
    "memory_region",
    "memory_table",
    "message",
    "receive",
    "send",
    "u64",
    "vring_addr",
    "vring_state",
]

HEADER: Final = struct.Struct("<III")
VERSION: Final = 0x1
REPLY: Final = 0x4
NEED_REPLY: Final = 0x8
NO_FD: Final = 0x100
"""In the payload of SET_VRING_KICK, CALL and ERR: no descriptor comes with it."""

MOST_FDS: Final = 253
"""SCM_MAX_FD of include/net/scm.h: Linux passes no more with one message."""


class Request(IntEnum):
    """Front-end message types."""

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
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32
    RESET_DEVICE = 34
    VRING_KICK = 35
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40


class Feature(IntFlag):
    """VIRTIO device features (VIRTIO 1.2 §5.1.3, §6), and two that only vhost has."""

    CSUM = 1 << 0
    GUEST_CSUM = 1 << 1
    MTU = 1 << 3
    GUEST_TSO4 = 1 << 7
    GUEST_TSO6 = 1 << 8
    GUEST_ECN = 1 << 9
    HOST_TSO4 = 1 << 11
    HOST_TSO6 = 1 << 12
    HOST_ECN = 1 << 13
    MRG_RXBUF = 1 << 15
    MQ = 1 << 22
    LOG_ALL = 1 << 26
    INDIRECT_DESC = 1 << 28
    EVENT_IDX = 1 << 29
    PROTOCOL_FEATURES = 1 << 30
    VERSION_1 = 1 << 32
    RING_PACKED = 1 << 34
    IN_ORDER = 1 << 35


class Protocol(IntFlag):
    """vhost-user protocol features."""

    MQ = 1 << 0
    LOG_SHMFD = 1 << 1
    RARP = 1 << 2
    REPLY_ACK = 1 << 3
    MTU = 1 << 4
    BACKEND_REQ = 1 << 5
    RESET_DEVICE = 1 << 13
    INBAND_NOTIFICATIONS = 1 << 14
    CONFIGURE_MEM_SLOTS = 1 << 15
    STATUS = 1 << 16


BASIC_FEATURES: Final = Feature.VERSION_1 | Feature.PROTOCOL_FEATURES
BASIC_PROTOCOL: Final = Protocol.MQ | Protocol.REPLY_ACK


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it was received, with its descriptors, which the receiver closes."""

    request: int
    flags: int
    payload: bytes
    fds: tuple[int, ...] = ()

    def u64(self) -> int:
        """A payload that is one number. struct.error when it is not."""
        (value,) = struct.unpack("<Q", self.payload)
        return int(value)


def message(request: int, payload: bytes = b"", *, flags: int = VERSION, length: int | None = None) -> bytes:
    """Header and payload. `length`: what the header says instead of the truth."""
    return HEADER.pack(request, flags, len(payload) if length is None else length) + payload


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def vring_state(ring: int, value: int) -> bytes:
    """SET_VRING_NUM, SET_VRING_BASE, SET_VRING_ENABLE, GET_VRING_BASE."""
    return struct.pack("<II", ring, value)


def vring_addr(
    ring: int, descriptors: int, used: int, available: int, *, log: int = 0, flags: int = 0
) -> bytes:
    """SET_VRING_ADDR: user addresses in the order of the wire; `log` is a guest address, `flags` 1 asks for it."""
    return struct.pack("<IIQQQQ", ring, flags, descriptors, used, available, log)


def memory_table(regions: Sequence[tuple[int, int, int, int]], *, count: int | None = None) -> bytes:
    """SET_MEM_TABLE of (guest address, size, user address, mmap offset); `count` to lie about their number."""
    number = len(regions) if count is None else count
    return struct.pack("<II", number, 0) + b"".join(struct.pack("<QQQQ", *region) for region in regions)


def memory_region(region: tuple[int, int, int, int]) -> bytes:
    """ADD_MEM_REG and REM_MEM_REG of (guest address, size, user address, mmap offset)."""
    return struct.pack("<QQQQQ", 0, *region)


def log_area(size: int, offset: int) -> bytes:
    """SET_LOG_BASE: bytes of the log and where it begins in the descriptor."""
    return struct.pack("<QQ", size, offset)


def send(sock: socket.socket, data: bytes, fds: Iterable[int] = ()) -> None:
    """All of `data`, the descriptors with its first byte; they stay the caller's. EOFError when the peer closed."""
    rights = array.array("i", fds)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else []
    try:
        sent = sock.sendmsg([data], ancillary)
        if sent < len(data):
            sock.sendall(data[sent:])
    except (BrokenPipeError, ConnectionResetError):
        raise EOFError("the back-end closed the control socket") from None


def receive(sock: socket.socket) -> Message:
    """The next message. EOFError when the peer closed, also in the middle; TimeoutError as the socket has it."""
    head, fds = _receive_exactly(sock, HEADER.size)
    request, flags, length = HEADER.unpack(head)
    payload, more = _receive_exactly(sock, length)
    return Message(request, flags, payload, (*fds, *more))


def _receive_exactly(sock: socket.socket, size: int) -> tuple[bytes, tuple[int, ...]]:
    data, fds = b"", array.array("i")
    while len(data) < size:
        try:
            got, ancillary, _, _ = sock.recvmsg(size - len(data), socket.CMSG_SPACE(MOST_FDS * fds.itemsize))
        except ConnectionResetError:
            got, ancillary = b"", []
        for level, kind, rights in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(rights[: len(rights) - len(rights) % fds.itemsize])
        if not got:
            for fd in fds:
                os.close(fd)
            raise EOFError("the back-end closed the control socket")
        data += got
    return data, tuple(fds)
