"""The strict reader: it accepts a good file, and no damaged one."""

from pathlib import Path

import pytest

from tests.support.pcapng import parse, read

SECTION = bytes.fromhex(
    "0a0d0d0a 28000000 4d3c2b1a 01000000 ffffffffffffffff 04000200 76620000 00000000 28000000"
)
INTERFACE = bytes.fromhex(
    "01000000 30000000 01000000 64000000 02000100 61000000 03000100 62000000 09000100 09000000 00000000 30000000"
)
PACKET = bytes.fromhex(
    "06000000 38000000 00000000 01000000 02000000 03000000 09000000 aabbcc00 02000400 02000000"
    "01000200 68690000 00000000 38000000"
)


def test_a_good_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(SECTION + INTERFACE + PACKET)
    capture = read(tmp_path / "f")
    assert capture.application == "vb"
    assert [(one.name, one.link_type, one.snaplen) for one in capture.interfaces] == [("a", 1, 100)]
    (packet,) = capture.of("a", "out")
    assert (packet.data, packet.length, packet.time_ns) == (b"\xaa\xbb\xcc", 9, (1 << 32) + 2)
    assert (packet.comment, packet.lost_before) == ("hi", 0)
    assert capture.of("a", "in") == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        INTERFACE,
        SECTION + SECTION,
        SECTION[:-1],
        SECTION + INTERFACE[:-4] + bytes(4),
        SECTION + INTERFACE + PACKET.replace(b"\xcc\0", b"\xcc\1"),
        SECTION + INTERFACE + PACKET.replace(b"hi\0\0", b"hi\0\1"),
        SECTION + b"\x63" + INTERFACE[1:],
        SECTION + bytes(12),
    ],
)
def test_damage_is_seen(data: bytes) -> None:
    with pytest.raises(AssertionError):
        parse(data)
