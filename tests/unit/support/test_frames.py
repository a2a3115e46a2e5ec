"""The frame builders, with scapy as the second opinion."""

from scapy.layers.l2 import Dot1Q, Ether

from tests.support.frames import BROADCAST, frame, mac, numbered, stream, vlan_frame


def test_scapy_reads_the_same_fields() -> None:
    read = Ether(frame(BROADCAST, mac(0x010203), b"payload", size=60))
    assert (read.dst, read.src, read.type) == ("ff:ff:ff:ff:ff:ff", "52:54:00:01:02:03", 0x88B5)
    assert bytes(read.payload) == b"payload".ljust(46, b"\0")


def test_scapy_reads_the_same_tag() -> None:
    read = Ether(vlan_frame(BROADCAST, mac(1), 42, b"x"))
    assert (read[Dot1Q].vlan, read[Dot1Q].type) == (42, 0x88B5)


def test_numbered_frames_count_up() -> None:
    frames = numbered(BROADCAST, mac(1), 3)
    assert [len(each) for each in frames] == [60] * 3
    assert [int.from_bytes(each[14:18]) for each in frames] == [0, 1, 2]


def test_a_stream_has_lengths_before_the_frames() -> None:
    assert stream(b"ab", b"", b"c") == b"\0\0\0\2ab\0\0\0\0\0\0\0\1c"
