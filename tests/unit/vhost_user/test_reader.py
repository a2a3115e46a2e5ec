"""Messages and their descriptors over a real socket pair: half ones, wrong ones, and nothing left open."""

import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fds import open_fds
from tests.support.vhost_user import raw, region, send, state, table, u64
from vbackend.errors import PeerError
from vbackend.vhost_user.events import Message, Region, Request, RingState
from vbackend.vhost_user.reader import MessageReader

pytestmark = pytest.mark.usefixtures("no_garbage")

ONE = Region(0, 4096, 0x1000, 0)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, MessageReader]]:
    before = open_fds()
    theirs, ours = socket.socketpair()
    with theirs, ours:
        ours.setblocking(False)
        reader = MessageReader(ours)
        yield theirs, reader
        reader.close()
    assert open_fds() <= before, "descriptors are left open"


def files(message: Message) -> list[int]:
    """Which files came, by inode; their descriptors are closed."""
    found = [os.fstat(fd.fileno()).st_ino for fd in message.fds]
    for fd in message.fds:
        fd.close()
    return found


def test_nothing_yet_then_a_message(pair: tuple[socket.socket, MessageReader]) -> None:
    theirs, reader = pair
    assert reader.read() is None
    send(theirs, raw(Request.GET_FEATURES))
    assert reader.read() == Message(Request.GET_FEATURES)
    assert reader.read() is None


def test_each_message_has_its_own_descriptors(
    pair: tuple[socket.socket, MessageReader], tmp_path: Path
) -> None:
    """All of them lie in the socket before the first is read."""
    theirs, reader = pair
    paths = [tmp_path / str(number) for number in range(4)]
    for path in paths:
        path.touch()
    opened = [os.open(path, os.O_RDONLY) for path in paths]
    inodes = [path.stat().st_ino for path in paths]
    send(theirs, raw(Request.SET_OWNER))
    send(theirs, raw(Request.SET_VRING_KICK, u64(0)), opened[:1])
    send(theirs, raw(Request.SET_VRING_NUM, state(0, 8)))
    send(theirs, raw(Request.SET_MEM_TABLE, table(ONE, ONE)), opened[1:3])
    send(theirs, raw(Request.SET_VRING_CALL, u64(0), flags=8), opened[3:])
    for fd in opened:
        os.close(fd)
    found = [message for message in (reader.read() for _ in range(5)) if message is not None]
    assert [message.request.name for message in found] == [
        "SET_OWNER",
        "SET_VRING_KICK",
        "SET_VRING_NUM",
        "SET_MEM_TABLE",
        "SET_VRING_CALL",
    ]
    assert [files(message) for message in found] == [[], inodes[:1], [], inodes[1:3], inodes[3:]]
    assert found[2].payload == RingState(0, 8)
    assert [message.need_reply for message in found] == [False] * 4 + [True]


def test_descriptors_may_come_with_any_byte(pair: tuple[socket.socket, MessageReader]) -> None:
    theirs, reader = pair
    data = raw(Request.ADD_MEM_REG, region(ONE))
    inode = os.fstat(theirs.fileno()).st_ino
    for at in range(len(data)):
        for position in range(len(data)):
            send(theirs, data[position : position + 1], [theirs.fileno()] if position == at else [])
            message = reader.read()
            assert (message is None) == (position < len(data) - 1)
        assert message is not None
        assert files(message) == [inode]


@pytest.mark.parametrize("count", [2, 8, 9, 253])
def test_too_many_are_closed(pair: tuple[socket.socket, MessageReader], count: int) -> None:
    theirs, reader = pair
    send(theirs, raw(Request.SET_VRING_KICK, u64(0)), [theirs.fileno()] * count)
    with pytest.raises(PeerError, match=f"SET_VRING_KICK: came with {count} file descriptors; it may have 1"):
        reader.read()


def test_a_flood_of_descriptors_with_half_a_message(pair: tuple[socket.socket, MessageReader]) -> None:
    theirs, reader = pair
    before = len(open_fds())
    for byte in raw(Request.SET_OWNER)[:-1]:
        send(theirs, bytes([byte]), [theirs.fileno()] * 253)
        assert reader.read() is None
        assert len(open_fds()) <= before + 8


def test_the_payload_s_size_is_checked_before_it_is_read(pair: tuple[socket.socket, MessageReader]) -> None:
    theirs, reader = pair
    send(theirs, raw(Request.SET_FEATURES, b"x" * 64, size=0xFFFF_FFFF), [theirs.fileno()])
    with pytest.raises(PeerError, match="4294967295 bytes of payload; it must have 8"):
        reader.read()
    assert reader.header is not None
    assert reader.header.request == Request.SET_FEATURES


ENDS = [
    (b"", "^the peer closed the connection$"),
    (raw(Request.SET_FEATURES)[:3], "in the middle of a request"),
    (raw(Request.SET_FEATURES, u64(0))[:12], "in the middle of SET_FEATURES"),
    (raw(Request.SET_FEATURES, u64(0))[:19], "in the middle of SET_FEATURES"),
]


@pytest.mark.parametrize(("sent", "words"), ENDS)
def test_the_end(pair: tuple[socket.socket, MessageReader], sent: bytes, words: str) -> None:
    theirs, reader = pair
    if sent:
        with Path(os.devnull).open() as file:
            send(theirs, sent, [file.fileno()])
    theirs.close()
    with pytest.raises(EOFError, match=words):
        reader.read()


def test_descriptors_that_are_lost(pair: tuple[socket.socket, MessageReader]) -> None:
    """The kernel gives fewer than were sent when the process may not have more."""
    theirs, reader = pair
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    send(theirs, raw(Request.SET_MEM_TABLE, table(*[ONE] * 8)), [theirs.fileno()] * 8)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(PeerError, match="a request: some of its file descriptors were lost"):
            reader.read()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
