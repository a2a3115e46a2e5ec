"""vbackend/testing/vhost/wire.py against bytes written by hand."""

import os
import socket
from pathlib import Path

import pytest

from vbackend.testing.vhost.wire import (
    HEADER,
    MOST_FDS,
    Feature,
    Message,
    Protocol,
    Request,
    log_area,
    memory_region,
    memory_table,
    message,
    receive,
    send,
    u64,
    vring_addr,
    vring_state,
)

GPA, SIZE, UVA, OFFSET = 0x1000, 0x2000, 0x7F00_0000_1000, 0x3000
REGION_BYTES = b"".join(each.to_bytes(8, "little") for each in (GPA, SIZE, UVA, OFFSET))


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (message(1), "01000000 01000000 00000000"),
        (message(2, u64(0x1_4000_0000)), "02000000 01000000 08000000 0000004001000000"),
        (message(1, flags=0x9), "01000000 09000000 00000000"),
        (message(1, b"ab", length=7), "01000000 01000000 07000000 6162"),
        (vring_state(3, 256), "03000000 00010000"),
        (
            vring_addr(1, 0xD, 0xE, 0xF, log=0x10, flags=1),
            "01000000 01000000 0d00000000000000 0e00000000000000 0f00000000000000 1000000000000000",
        ),
        (memory_table([(GPA, SIZE, UVA, OFFSET)]), "01000000 00000000" + REGION_BYTES.hex()),
        (memory_table([], count=9), "09000000 00000000"),
        (memory_region((GPA, SIZE, UVA, OFFSET)), "0000000000000000" + REGION_BYTES.hex()),
        (log_area(8, 4), "0800000000000000 0400000000000000"),
    ],
)
def test_bytes(made: bytes, expected: str) -> None:
    assert made == bytes.fromhex(expected)


def test_numbers_of_the_norm() -> None:
    assert (Request.SET_VRING_ENABLE, Request.ADD_MEM_REG, Request.GET_STATUS) == (18, 37, 40)
    assert Feature.VERSION_1 | Feature.PROTOCOL_FEATURES == 0x1_4000_0000
    assert Feature.RING_PACKED | Feature.IN_ORDER == 0xC_0000_0000
    assert Protocol.CONFIGURE_MEM_SLOTS | Protocol.STATUS == 0x1_8000


@pytest.mark.parametrize("count", [0, 1, MOST_FDS])
def test_a_message_and_its_descriptors_arrive(count: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, Path(os.devnull).open() as null:
        send(ours, message(Request.SET_MEM_TABLE, b"payload"), [null.fileno()] * count)
        got = receive(theirs)
        for fd in got.fds:
            assert os.fstat(fd).st_rdev == os.fstat(null.fileno()).st_rdev
            os.close(fd)
        assert got == Message(Request.SET_MEM_TABLE, 1, b"payload", got.fds)
        assert len(got.fds) == count


@pytest.mark.parametrize("size", [0, 5, HEADER.size, HEADER.size + 3])
def test_an_end_inside_a_message_is_an_end(size: int) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(message(Request.SET_FEATURES, u64(1))[:size])
        with pytest.raises(EOFError):
            receive(theirs)


def test_silence_is_a_timeout() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(0.01)
        with pytest.raises(TimeoutError):
            receive(theirs)


def test_sending_to_nobody_is_an_end() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours, pytest.raises(EOFError):
        send(ours, message(Request.GET_FEATURES))
