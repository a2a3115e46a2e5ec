"""Ethernet frames as plain bytes, and QEMU's stream format around them.

Built by hand; scapy is only the second opinion, in the tests of this file.
"""

import struct
from typing import Final

__all__ = ["BROADCAST", "MAX_FRAME", "MIN_FRAME", "frame", "mac", "numbered", "stream", "vlan_frame"]

BROADCAST: Final = b"\xff" * 6
MIN_FRAME: Final = 14  # an Ethernet header and nothing else
MAX_FRAME: Final = 69_632  # QEMU's NET_BUFSIZE (include/net/net.h)
TEST_ETHERTYPE: Final = 0x88B5  # IEEE 802 local experimental


def mac(number: int) -> bytes:
    """A station address of its own for every number below 2**24."""
    return b"\x52\x54\x00" + number.to_bytes(3, "big")


def frame(
    destination: bytes, source: bytes, payload: bytes = b"", *, ethertype: int = TEST_ETHERTYPE, size: int = 0
) -> bytes:
    """One frame; padded with zeros to `size` bytes, header included."""
    return (destination + source + struct.pack(">H", ethertype) + payload).ljust(size, b"\0")


def vlan_frame(destination: bytes, source: bytes, vid: int, payload: bytes = b"") -> bytes:
    """A frame with an IEEE 802.1Q tag of priority 0."""
    return destination + source + struct.pack(">HHH", 0x8100, vid, TEST_ETHERTYPE) + payload


def numbered(destination: bytes, source: bytes, count: int, *, size: int = 60) -> list[bytes]:
    """`count` frames of the same size whose payloads count up from 0."""
    return [frame(destination, source, struct.pack(">I", number), size=size) for number in range(count)]


def stream(*frames: bytes) -> bytes:
    """The frames as QEMU's `-netdev stream` sends them: a big-endian u32 length before each."""
    return b"".join(struct.pack(">I", len(each)) + each for each in frames)
