"""Kernel network stacks as peers: sockets, pings and raw frames in a namespace, while the test stays where it is.

All waiting has a deadline. Not here: making namespaces (netns.py), the guest's end of a socket port (qemu_peers.py).
"""

import hashlib
import re
import socket
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self

from tests.support.netns import Namespace
from vbackend.host.netns import run_in_namespace

__all__ = ["RawPort", "join_multicast", "multicast_sender", "ping", "socket_in", "transfer"]

_DEADLINE_S: Final = 20.0
_ETH_P_ALL: Final = 3
_SOL_PACKET: Final = 263
_PACKET_AUXDATA: Final = 8
_TP_STATUS_VLAN_VALID: Final = 1 << 4
_TP_STATUS_VLAN_TPID_VALID: Final = 1 << 6
_AUXDATA: Final = struct.Struct("=IIIHHHH")  # struct tpacket_auxdata (linux/if_packet.h)
_MAX_FRAME: Final = 1 << 17


def socket_in(netns: Namespace, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A socket of the namespace, with a timeout. The caller closes it."""
    sock = run_in_namespace(netns.name, lambda: socket.socket(family, kind, protocol))
    sock.settimeout(_DEADLINE_S)
    return sock


def ping(
    netns: Namespace, target: str, *, size: int, fragment: bool = False, count: int = 3, within_s: int = 10
) -> None:
    """Ping with IP packets of `size` bytes until `count` came back; they travel whole unless `fragment`."""
    payload = size - (48 if ":" in target else 28)
    words = ["ping", "-n", "-c", str(count), "-i", "0.02", "-w", str(within_s), "-s", str(payload)]
    # With -w ping waits for replies; without, for two round trips only, which a busy machine can miss.
    said = netns.run(*words, "-M", "dont" if fragment else "do", target, check=False)
    (received,) = re.findall(r"\b(\d+) received", said) or ["0"]
    assert int(received) >= count, f"ping from {netns.name} to {target}, {size} bytes: {said}"


def transfer(sender: Namespace, receiver: Namespace, address: str, data: bytes) -> None:
    """Send the data over TCP to `address`, which is the receiver's, and compare the hashes."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with (
        socket_in(receiver, family, socket.SOCK_STREAM) as listener,
        socket_in(sender, family, socket.SOCK_STREAM) as source,
        ThreadPoolExecutor(1) as pool,
    ):
        listener.bind((address, 0))
        listener.listen(1)
        received = pool.submit(_hash_of_next, listener)
        source.connect(listener.getsockname()[:2])
        source.sendall(data)
        source.shutdown(socket.SHUT_WR)
        assert received.result() == (len(data), hashlib.sha256(data).hexdigest())


def join_multicast(netns: Namespace, group: str, ifname: str) -> socket.socket:
    """A UDP socket that hears the group on one link; its port is the kernel's choice."""
    index = run_in_namespace(netns.name, lambda: socket.if_nametoindex(ifname))
    if ":" in group:
        sock = socket_in(netns, socket.AF_INET6, socket.SOCK_DGRAM)
        membership = socket.inet_pton(socket.AF_INET6, group) + struct.pack("@I", index)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)
    else:
        sock = socket_in(netns, socket.AF_INET, socket.SOCK_DGRAM)
        membership = socket.inet_aton(group) + bytes(4) + struct.pack("@i", index)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    sock.bind(("", 0))
    return sock


def multicast_sender(netns: Namespace, group: str, ifname: str) -> socket.socket:
    """A UDP socket whose multicast leaves by one link."""
    index = run_in_namespace(netns.name, lambda: socket.if_nametoindex(ifname))
    if ":" in group:
        sock = socket_in(netns, socket.AF_INET6, socket.SOCK_DGRAM)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    else:
        sock = socket_in(netns, socket.AF_INET, socket.SOCK_DGRAM)
        place = bytes(8) + struct.pack("@i", index)  # struct ip_mreqn
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, place)
    return sock


class RawPort:
    """Whole frames on a link, past the kernel's stack: what was sent is what the link carries.

    The kernel takes an outer VLAN tag off what comes in and hands it over beside the frame; it is put back.
    """

    def __init__(self, netns: Namespace, ifname: str) -> None:
        self.sock: Final = socket_in(netns, socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            self.sock.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
            run_in_namespace(netns.name, lambda: self.sock.bind((ifname, _ETH_P_ALL)))
        except BaseException:
            self.sock.close()
            raise

    def send(self, *frames: bytes) -> None:
        for each in frames:
            self.sock.send(each)

    def receive(self, wanted: Callable[[bytes], bool], count: int = 1) -> list[bytes]:
        """The next `count` frames for which `wanted` holds; the stack's own chatter is passed over."""
        found: list[bytes] = []
        deadline = time.monotonic() + _DEADLINE_S
        while len(found) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} frames came within the deadline"
            frame, ancillary, _, sender = self.sock.recvmsg(_MAX_FRAME, socket.CMSG_SPACE(_AUXDATA.size))
            if sender[2] == socket.PACKET_OUTGOING:
                continue
            frame = _with_tag(frame, ancillary)
            if wanted(frame):
                found.append(frame)
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()


def _with_tag(frame: bytes, ancillary: list[tuple[int, int, bytes]]) -> bytes:
    for level, kind, data in ancillary:
        if (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA):
            status, _, _, _, _, tci, tpid = _AUXDATA.unpack(data[: _AUXDATA.size])
            if status & _TP_STATUS_VLAN_VALID:
                ethertype = tpid if status & _TP_STATUS_VLAN_TPID_VALID else 0x8100
                return frame[:12] + struct.pack(">HH", ethertype, tci) + frame[12:]
    return frame


def _hash_of_next(listener: socket.socket) -> tuple[int, str]:
    """Length and hash of all that the next connection sends."""
    sock, _ = listener.accept()
    digest, length = hashlib.sha256(), 0
    with sock:
        sock.settimeout(_DEADLINE_S)
        while data := sock.recv(1 << 16):
            digest.update(data)
            length += len(data)
    return length, digest.hexdigest()
