"""vbackend/testing/wires.py: the stream's framing; the rings are those of tests/unit/testing/vhost."""

import socket
import time

import pytest

from tests.support.frames import frame, mac, stream
from vbackend.testing.wires import StreamWire

ONE, TWO = frame(mac(1), mac(2), b"one"), frame(mac(1), mac(2), b"two" * 400)


def soon() -> float:
    return time.monotonic() + 0.05


def test_frames_are_found_however_they_are_cut() -> None:
    data = stream(ONE, TWO)
    for cut in (0, 1, 3, 4, 5, len(ONE) + 4, len(ONE) + 6, len(data) - 1):
        ours, theirs = socket.socketpair()
        with theirs:
            wire = StreamWire(ours)
            theirs.sendall(data[:cut])
            got = []
            for _ in range(2):
                try:
                    got.append(wire.receive(soon()))
                except TimeoutError:
                    break
            theirs.sendall(data[cut:])
            while len(got) < 2:
                got.append(wire.receive(soon()))
            assert got == [ONE, TWO], cut
            wire.close()


def test_what_is_sent_has_its_length_in_front() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        wire = StreamWire(ours)
        wire.send(ONE, soon())
        wire.send(TWO, soon())
        assert theirs.recv(10_000) == stream(ONE, TWO)
        wire.close()
        assert theirs.recv(1) == b""


def test_nobody_reads() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        wire = StreamWire(ours)
        with pytest.raises(TimeoutError):  # noqa: PT012 (how much fits is the kernel's business)
            while True:
                wire.send(TWO, soon())
        theirs.close()
        with pytest.raises(ConnectionError):
            wire.send(ONE, soon())
        wire.close()


def test_the_end() -> None:
    ours, theirs = socket.socketpair()
    wire = StreamWire(ours)
    theirs.sendall(stream(ONE)[:-1])
    theirs.close()
    with pytest.raises(ConnectionError):
        wire.receive(soon())
    wire.close()
