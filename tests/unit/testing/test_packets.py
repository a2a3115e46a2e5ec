"""vbackend/testing/packets.py: what capture/pcapng.py and the engine write is read again."""

import struct

from vbackend.capture.pcapng import Interface, head
from vbackend.testing.packets import Packet, PacketReader, preamble

FRAME = bytes(range(61))


def packet(interface: int, frame: bytes, time_ns: int, options: bytes = b"") -> bytes:
    """An enhanced packet block (draft-ietf-opsawg-pcapng-04, 4.3)."""
    body = struct.pack("<IIIII", interface, time_ns >> 32, time_ns & 0xFFFF_FFFF, len(frame), len(frame))
    body += frame + bytes(-len(frame) % 4) + options
    length = len(body) + 12
    return struct.pack("<II", 6, length) + body + struct.pack("<I", length)


def option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


HEAD = head("test", [Interface("a → b", "link core"), Interface("b → a", "link core")], 1000, None)
DIRECTION = option(2, b"\2\0\0\0")
LOST = DIRECTION + option(1, b"lost: impairment loss, seed 7") + bytes(4)


def test_packets_have_their_way_time_and_verdict() -> None:
    reader = PacketReader()
    assert list(reader.feed(HEAD)) == []
    found = list(
        reader.feed(packet(1, FRAME, 1_500_000_000) + packet(0, FRAME[:14], 2_250_000_000_000_000_000, LOST))
    )
    assert found == [
        Packet(FRAME, 1.5, "b", "a"),
        Packet(FRAME[:14], 2.25e9, "a", "b", "lost: impairment loss, seed 7"),
    ]
    assert bytes(found[0]) == FRAME
    assert str(found[1]) == (
        "a → b: 06:07:08:09:0a:0b > 00:01:02:03:04:05 0c0d 14 bytes (lost: impairment loss, seed 7)"
    )


def test_interfaces_may_come_later_and_sections_begin_anew() -> None:
    reader = PacketReader()
    one = head("test", [Interface("x → lan", "link lan/x")], 1000, None)
    found = list(reader.feed(HEAD + packet(0, FRAME, 0) + one + packet(0, FRAME, 0)))
    assert [(each.source, each.target) for each in found] == [("a", "b"), ("x", "lan")]


def test_what_packets_need_in_front_of_them() -> None:
    assert preamble(HEAD + packet(0, FRAME, 0) + packet(1, FRAME, 0)) == HEAD
    assert preamble(b"") == b""
