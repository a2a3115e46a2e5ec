"""A small program for a tun device: it answers pings. Which device it is for is decided by who opens it."""

import struct
from typing import Protocol

__all__ = ["Device", "answer", "run"]

ICMP, ICMP_ECHO, ICMP_ECHOREPLY = 1, 8, 0  # netinet/in.h, netinet/ip_icmp.h


class Device(Protocol):
    """What an open tun device can do; a raw file of Python's has the same two."""

    def read(self, size: int, /) -> bytes | None: ...
    def write(self, packet: bytes, /) -> int | None: ...


def run(device: Device, count: int) -> int:
    """Answer `count` pings; returns how many packets were none."""
    others = 0
    while count:
        reply = answer(device.read(2048) or b"")
        if reply is None:
            others += 1
            continue
        device.write(reply)
        count -= 1
    return others


def answer(packet: bytes) -> bytes | None:
    """The reply to an ICMP echo request over IPv4 (RFC 792); None for anything else."""
    if len(packet) < 28 or packet[0] != 0x45 or packet[9] != ICMP or packet[20] != ICMP_ECHO:
        return None
    head = packet[:12] + packet[16:20] + packet[12:16]  # its checksum stays: the sum is the same
    rest = packet[24:]
    body = bytes([ICMP_ECHOREPLY, 0]) + struct.pack(">H", checksum(bytes(4) + rest)) + rest
    return head + body


def checksum(data: bytes) -> int:
    """RFC 1071."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
