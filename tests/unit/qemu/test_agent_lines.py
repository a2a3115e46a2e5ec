import pytest

from vbackend.errors import PeerError
from vbackend.qemu.agent_lines import (
    COMMAND_MAX,
    LINE_MAX,
    Data,
    Drop,
    End,
    Fail,
    Hello,
    Line,
    Lines,
    Room,
    Run,
    Signal,
    encode,
)

EVERY_BYTE = bytes(range(256))


@pytest.mark.parametrize(
    ("line", "data"),
    [
        (Hello(), b"\nhello 2\n"),
        (Run(7, "echo 'ü'\nexit", False, 100), b"run 7 100 null :echo '\xc3\xbc'\x1bbexit\n"),
        (Run(7, "", True), b"run 7 262144 pipe :\n"),
        (Data(1, "in", b""), b"in 1 :\n"),
        (Data(1, "in", b"a :b"), b"in 1 :a :b\n"),
        (Data(1, "out", b"\n\x1b\x1bb\x1ba"), b"out 1 :\x1bb\x1ba\x1bab\x1baa\n"),
        (Data(1, "err", EVERY_BYTE), None),
        (Room(1, "in", 262144), b"room 1 in 262144\n"),
        (Room(1, "err", 5), b"room 1 err 5\n"),
        (Signal(1, 2), b"signal 1 2\n"),
        (Drop(1), b"drop 1\n"),
        (Drop(None), b"drop all\n"),
        (End(1, 137), b"end 1 137\n"),
        (Fail(1, "no\nmemory"), b"fail 1 :no\x1bbmemory\n"),
    ],
)
def test_there_and_back(line: Line, data: bytes | None) -> None:
    there = encode(line)
    assert data in (None, there)
    assert there.strip(b"\n").count(b"\n") == 0
    assert Lines().feed(there) == [line]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello 1",
        b"hello",
        b"out 1 aGV",
        b"out :x",
        b"out x :y",
        b"out -1 :y",
        b"log 1 :y",
        b"room 1 up 5",
        b"room 1 in -5",
        b"room 1 in",
        b"room 1 in " + b"9" * 5000,
        b"end 1",
        b"end 1 x",
        b"end 1 \xb2",
        b"run 1 5 tty :x",
        b"run 1 5 null :\xff",
        b"drop",
        b"\xff\x00",
    ],
)
def test_what_makes_no_sense_is_nothing(data: bytes) -> None:
    assert Lines().feed(data + b"\nend 1 0\n") == [End(1, 0)]


def test_what_a_reset_cut_off_is_nothing() -> None:
    assert Lines().feed(b"room 1 i" + encode(Hello())) == [Hello()]


def test_lines_are_bounded() -> None:
    lines = Lines(most=10)
    assert lines.feed(b"x" * 10) == []
    with pytest.raises(PeerError, match="a line of more than 10 bytes"):
        lines.feed(b"x")
    with pytest.raises(PeerError, match="a line of more than 10 bytes"):
        Lines(most=10).feed(b"x" * 11 + b"\n")


def test_the_longest_command_fits() -> None:
    assert len(encode(Run(10**17, "\n" * COMMAND_MAX, True, 10**17))) <= LINE_MAX
