"""Messages against bytes from `struct`: every payload, every wrong size, every flag."""

import struct

import pytest

from tests.support.vhost_user import addresses, log, raw, region, state, table, u64
from vbackend.errors import PeerError
from vbackend.vhost_user.events import Log, Payload, Region, Request, RingAddresses, RingState
from vbackend.vhost_user.messages import (
    HEADER_BYTES,
    Header,
    encode_state,
    encode_u64,
    parse_header,
    parse_payload,
    request_name,
)

LOW = Region(0, 0xA0000, 0x7F00_0000_0000, 0)
HIGH = Region(1 << 32, 1 << 30, 0x7F80_0000_0000, 0xA0000)

R = Request
PAYLOADS: list[tuple[Request, bytes, Payload]] = [
    (R.GET_FEATURES, b"", None),
    (R.SET_FEATURES, u64(1 << 63 | 5), 1 << 63 | 5),
    (R.SET_OWNER, b"", None),
    (R.RESET_OWNER, b"", None),
    (R.SET_MEM_TABLE, table(), ()),
    (R.SET_MEM_TABLE, table(LOW), (LOW,)),
    (R.SET_MEM_TABLE, table(LOW, spare=1), (LOW,)),  # user-mode Linux
    (R.SET_MEM_TABLE, table(*[LOW, HIGH] * 4), (LOW, HIGH) * 4),
    (R.SET_LOG_BASE, log(4096, 64), Log(4096, 64)),
    (R.SET_LOG_FD, b"", None),
    (R.SET_VRING_NUM, state(3, 256), RingState(3, 256)),
    (R.SET_VRING_BASE, state(1, 0x80008000), RingState(1, 0x80008000)),
    (R.GET_VRING_BASE, state(1, 0), RingState(1, 0)),
    (R.SET_VRING_ENABLE, state(0, 1), RingState(0, 1)),
    (
        R.SET_VRING_ADDR,
        addresses(1, 0x1000, 0x3000, 0x2000, flags=1, log=0x9),
        RingAddresses(1, flags=1, descriptors=0x1000, device=0x3000, driver=0x2000, log=9),
    ),
    (R.SET_VRING_KICK, u64(0x101), 0x101),
    (R.SET_VRING_CALL, u64(1), 1),
    (R.SET_VRING_ERR, u64(1), 1),
    (R.GET_PROTOCOL_FEATURES, b"", None),
    (R.SET_PROTOCOL_FEATURES, u64(0x28), 0x28),
    (R.GET_QUEUE_NUM, b"", None),
    (R.NET_SET_MTU, u64(9000), 9000),
    (R.SEND_RARP, u64(5), 5),
    (R.SET_BACKEND_REQ_FD, b"", None),
    (R.RESET_DEVICE, b"", None),
    (R.GET_MAX_MEM_SLOTS, b"", None),
    (R.ADD_MEM_REG, region(HIGH), HIGH),
    (R.REM_MEM_REG, region(HIGH), HIGH),
    (R.SET_STATUS, u64(15), 15),
    (R.GET_STATUS, b"", None),
]
ONE_FD = {
    R.SET_LOG_BASE,
    R.SET_LOG_FD,
    R.SET_BACKEND_REQ_FD,
    R.ADD_MEM_REG,
    R.REM_MEM_REG,
    R.SET_VRING_KICK,
    R.SET_VRING_CALL,
    R.SET_VRING_ERR,
}
SUPPORTED = {request for request, _, _ in PAYLOADS}


def parsed(data: bytes, fds: int = 0) -> tuple[Header, Payload]:
    header, problem = parse_header(data[:HEADER_BYTES])
    if problem is not None:
        raise problem
    return header, parse_payload(header, data[HEADER_BYTES:], fds)


@pytest.mark.parametrize(("request_", "payload", "expected"), PAYLOADS)
def test_payloads(request_: Request, payload: bytes, expected: Payload) -> None:
    for flags, need_reply in ((0, False), (8, True), (0xFFF0, False)):
        header, found = parsed(raw(request_, payload, flags=flags))
        assert header == Header(request_, need_reply, len(payload))
        assert found == expected


@pytest.mark.parametrize("request_", sorted(SUPPORTED))
def test_how_many_descriptors(request_: Request) -> None:
    payload = next(payload for request, payload, _ in PAYLOADS if request == request_)
    most = 8 if request_ == R.SET_MEM_TABLE else int(request_ in ONE_FD)
    parsed(raw(request_, payload), fds=most)
    with pytest.raises(PeerError, match=f"{request_.name}: came with {most + 1} file descriptors"):
        parsed(raw(request_, payload), fds=most + 1)


@pytest.mark.parametrize("request_", sorted(SUPPORTED))
@pytest.mark.parametrize("size", [1, 7, 9, 15, 39, 41, 265, 4096, 0xFFFF_FFFF])
def test_wrong_sizes_are_known_before_anything_is_read(request_: Request, size: int) -> None:
    if request_ == R.SET_MEM_TABLE and 8 <= size <= 264:
        return
    with pytest.raises(PeerError, match=f"^{request_.name}: has {size} bytes of payload; it must have "):
        parsed(raw(request_, size=size))


HEADERS = [
    (struct.pack("=III", 1, 0, 0), "GET_FEATURES: flags 0x0 are not of version 1"),
    (struct.pack("=III", 1, 2, 0), "GET_FEATURES: flags 0x2 are not of version 1"),
    (b"GET / HTTP/1", "request 542393671: flags 0x5448202f are not of version 1"),
    (raw(R.GET_FEATURES, flags=4), "GET_FEATURES: has the flag of a reply"),
    (raw(99), "request 99: no such request"),
    (raw(0), "request 0: no such request"),
    (raw(R.GET_CONFIG), "GET_CONFIG: is not offered"),
    (raw(R.GET_INFLIGHT_FD), "GET_INFLIGHT_FD: is not offered"),
]


@pytest.mark.parametrize(("data", "words"), HEADERS)
def test_headers_that_end_the_session(data: bytes, words: str) -> None:
    header, problem = parse_header(data[:HEADER_BYTES])
    assert header.request == int.from_bytes(data[:4], "little")
    assert str(problem).startswith(words)


def test_all_other_requests_are_not_offered() -> None:
    for request in set(Request) - SUPPORTED:
        assert "is not offered" in str(parse_header(raw(request))[1])


@pytest.mark.parametrize(("count", "room"), [(1, 0), (2, 1), (9, 8), (0xFFFF_FFFF, 8)])
def test_more_regions_than_there_is_room_for(count: int, room: int) -> None:
    data = raw(R.SET_MEM_TABLE, table(*[LOW] * room, count=count))
    with pytest.raises(PeerError, match=f"{count} regions; its payload has room for {room}"):
        parsed(data, fds=min(count, 8))


def test_replies() -> None:
    assert encode_u64(R.GET_FEATURES, 1 << 32) == struct.pack("=IIIQ", 1, 5, 8, 1 << 32)
    assert encode_u64(99, 1) == struct.pack("=IIIQ", 99, 5, 8, 1)
    assert encode_state(R.GET_VRING_BASE, 3, 0x80008000) == struct.pack("=IIIII", 11, 5, 8, 3, 0x80008000)


def test_names() -> None:
    assert (request_name(37), request_name(77)) == ("ADD_MEM_REG", "request 77")
