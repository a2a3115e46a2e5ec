"""Any bytes, cut anywhere, with descriptors anywhere: whole messages come out or an end in words; nothing leaks."""

import asyncio
import os
import socket
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fds import open_fds
from tests.support.qemu_peers import eventually
from tests.support.vhost_user import FakeRings, addresses, log, raw, region, send, state, table, u64
from vbackend.vhost_user.events import Region, Request
from vbackend.vhost_user.features import PROTOCOL_FEATURES, Offer
from vbackend.vhost_user.protocol import FrontEnd
from vbackend.vhost_user.reader import MessageReader
from vbackend.vhost_user.session import Session

pytestmark = pytest.mark.usefixtures("no_garbage")

R = Request
ONE = Region(0, 1 << 20, 1 << 32, 0)

MESSAGES: list[tuple[bytes, int]] = [  # and how many descriptors
    (raw(R.SET_OWNER), 0),
    (raw(R.GET_FEATURES), 0),
    (raw(R.SET_PROTOCOL_FEATURES, u64(int(PROTOCOL_FEATURES)), flags=8), 0),
    (raw(R.SET_FEATURES, u64(1 << 32 | 1 << 30)), 0),
    (raw(R.SET_MEM_TABLE, table(ONE), flags=8), 1),
    (raw(R.SET_MEM_TABLE, table(ONE, spare=7)), 1),
    (raw(R.ADD_MEM_REG, region(ONE)), 1),
    (raw(R.SET_VRING_NUM, state(0, 256)), 0),
    (raw(R.SET_VRING_ADDR, addresses(0, *[ONE.user_address] * 3)), 0),
    (raw(R.SET_VRING_KICK, u64(0)), 1),
    (raw(R.SET_VRING_CALL, u64(0x101)), 0),
    (raw(R.SET_BACKEND_REQ_FD), 1),
    (raw(R.SET_LOG_BASE, log(4096, 0)), 1),
    (raw(R.SET_VRING_ENABLE, state(0, 1), flags=8), 0),
    (raw(R.GET_VRING_BASE, state(0, 0)), 0),
]


def cut(data: bytes, cuts: Sequence[float]) -> list[bytes]:
    places = sorted({0, len(data), *(int(part * len(data)) for part in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


@given(
    st.lists(st.sampled_from(MESSAGES), min_size=1, max_size=8),
    st.lists(st.floats(0, 1), max_size=6),
    st.booleans(),
)
def test_any_split_gives_the_same_messages(
    messages: list[tuple[bytes, int]], cuts: list[float], at_once: bool
) -> None:
    """Each message is a sendmsg of its own or several; its descriptors come with the first."""
    before = open_fds()
    theirs, ours = socket.socketpair()
    found: list[tuple[bytes, int]] = []
    with theirs, ours, Path(os.devnull).open() as file:
        ours.setblocking(False)
        reader = MessageReader(ours)

        def read() -> None:
            while (message := reader.read()) is not None:
                assert all(os.fstat(fd.fileno()).st_rdev for fd in message.fds), "not the file that was sent"
                found.append((int(message.request).to_bytes(4, "little"), len(message.fds)))
                for fd in message.fds:
                    fd.close()

        for data, fds in messages:
            for index, piece in enumerate(cut(data, cuts)):
                send(theirs, piece, [file.fileno()] * fds if index == 0 else [])
                if not at_once:
                    read()
        read()
        reader.close()
    assert found == [(data[:4], fds) for data, fds in messages]
    assert open_fds() == before


pieces = st.one_of(
    st.sampled_from(MESSAGES).map(lambda message: message[0]),
    st.sampled_from(MESSAGES).flatmap(
        lambda message: st.integers(0, len(message[0])).map(lambda n: message[0][:n])
    ),
    st.builds(
        lambda message, at, byte: message[:at] + bytes([byte]) + message[at + 1 :],
        st.sampled_from([message for message, _ in MESSAGES]),
        st.integers(0, 50),
        st.integers(0, 255),
    ),
    st.binary(min_size=1, max_size=40),
)


@given(st.lists(st.tuples(pieces, st.sampled_from([0, 0, 1, 1, 2, 9, 253])), max_size=12), st.booleans())
def test_nothing_a_peer_sends_leaks_or_escapes(sent: list[tuple[bytes, int]], fails: bool) -> None:
    before = open_fds()
    asyncio.run(serve(sent, fails))
    assert open_fds() == before


async def serve(sent: list[tuple[bytes, int]], fails: bool) -> None:
    theirs, ours = socket.socketpair()
    ends: list[tuple[str, bool]] = []
    errors: list[dict[str, object]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: errors.append(context))
    rings = FakeRings()
    if fails:
        rings.fail = {"start_ring": ValueError("misaligned"), "set_log": OSError(22, "cannot map it")}
    front = FrontEnd(Offer())
    session = Session(ours, front, rings, 1, before=lambda: None, on_end=lambda *words: ends.append(words))
    with theirs, Path(os.devnull).open() as file:
        for data, fds in sent:
            try:
                send(theirs, data or b"\0", [file.fileno()] * fds)
            except (BrokenPipeError, ConnectionResetError):
                break
            await asyncio.sleep(0)
    await eventually(lambda: ends, "the end")
    session.close()
    assert errors == []
    assert len(ends) == 1
    assert ends[0][0]
