"""vhost-user messages as bytes: headers, payloads, and how many descriptors each request may carry. Pure.

    request u32, flags u32, size u32, then `size` bytes of payload; all in the host's byte order
    flags: bits 0 and 1 the version, which is 1; bit 2 a reply; bit 3 a reply is needed

Checked here: sizes and counts. What values mean is protocol.py's. Every error is a `PeerError` that names the request.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

# declares the layouts that would be offsets and struct formats
from construct import Array, Const, Construct, Int32un, Int64un, Padding, Struct, this

from vbackend.errors import PeerError
from vbackend.vhost_user.events import Log, Payload, Region, Request, RingAddresses, RingState

__all__ = [
    "HEADER_BYTES",
    "MOST_FDS",
    "NO_FD",
    "Header",
    "encode_state",
    "encode_u64",
    "parse_header",
    "parse_payload",
    "request_name",
]

_KNOWN: Final = frozenset(request.value for request in Request)
_VERSION: Final = 0x1
_VERSION_MASK: Final = 0x3
_REPLY: Final = 0x4
_NEED_REPLY: Final = 0x8

NO_FD: Final = 1 << 8  # in the payload of SET_VRING_KICK, CALL and ERR
MOST_FDS: Final = 8  # VHOST_MEMORY_BASELINE_NREGIONS: regions of one SET_MEM_TABLE, each with its file

_HEADER: Final = Struct("request" / Int32un, "flags" / Int32un, "size" / Int32un)
_U64: Final = Struct("value" / Int64un)
_STATE: Final = Struct("ring" / Int32un, "number" / Int32un)
_ADDRESSES: Final = Struct(
    "ring" / Int32un,
    "flags" / Int32un,
    "descriptors" / Int64un,
    "device" / Int64un,
    "driver" / Int64un,
    "log" / Int64un,
)
_REGION: Final = Struct(
    "guest_address" / Int64un, "size" / Int64un, "user_address" / Int64un, "offset" / Int64un
)
_TABLE: Final = Struct("count" / Int32un, Padding(4), "regions" / Array(this.count, _REGION))
_ONE_REGION: Final = Struct(Padding(8), "region" / _REGION)
_LOG: Final = Struct("size" / Int64un, "offset" / Int64un)
_REPLY_HEADER: Final = Struct(
    "request" / Int32un, "flags" / Const(_VERSION | _REPLY, Int32un), "size" / Int32un
)

HEADER_BYTES: Final[int] = _HEADER.sizeof()
_TABLE_START: Final = 8
_TABLE_BYTES: Final[int] = _TABLE_START + MOST_FDS * _REGION.sizeof()


@dataclass(frozen=True, slots=True)
class Header:
    """Of a request; `request` is a number nobody has looked at when the parsing failed."""

    request: int
    need_reply: bool
    size: int  # bytes of payload


@dataclass(frozen=True, slots=True)
class _Layout:
    parse: Callable[[bytes], Payload]
    least: int = 0  # bytes
    most: int = 0
    fds: int = 0  # at most


def request_name(number: int) -> str:
    """As the specification has it; "request 99" when it has none."""
    return Request(number).name if number in _KNOWN else f"request {number}"


def parse_header(data: bytes) -> tuple[Header, PeerError | None]:
    """The header in `HEADER_BYTES` bytes, and what is wrong with it; then nothing after it can be read."""
    raw = _HEADER.parse(data)
    header = Header(raw.request, bool(raw.flags & _NEED_REPLY), raw.size)
    return header, _problem(header, raw.flags)


def parse_payload(header: Header, data: bytes, fds: int) -> Payload:
    """The payload of a message with a good header, which came with `fds` descriptors."""
    name, layout = request_name(header.request), _LAYOUTS[Request(header.request)]
    if fds > layout.fds:
        raise PeerError(f"{name}: came with {fds} file descriptors; it may have {layout.fds or 'none'}")
    return layout.parse(data)


def encode_u64(request: int, value: int) -> bytes:
    """A reply that is one number: an acknowledgement, features, a count."""
    payload: bytes = _U64.build({"value": value})
    return _reply(request, payload)


def encode_state(request: int, ring: int, number: int) -> bytes:
    """The reply to GET_VRING_BASE."""
    payload: bytes = _STATE.build({"ring": ring, "number": number})
    return _reply(request, payload)


def _reply(request: int, payload: bytes) -> bytes:
    header: bytes = _REPLY_HEADER.build({"request": request, "size": len(payload)})
    return header + payload


def _problem(header: Header, flags: int) -> PeerError | None:
    name = request_name(header.request)
    if flags & _VERSION_MASK != _VERSION:
        return PeerError(f"{name}: flags {flags:#x} are not of version 1; the peer does not speak vhost-user")
    if flags & _REPLY:
        return PeerError(f"{name}: has the flag of a reply, but nothing was asked")
    if header.request not in _KNOWN:
        return PeerError(f"{name}: no such request is known; the peer has a newer protocol, or another one")
    layout = _LAYOUTS.get(Request(header.request))
    if layout is None:
        return PeerError(f"{name}: is not offered; a front-end uses only what both sides have")
    if not layout.least <= header.size <= layout.most:
        right = str(layout.least) if layout.least == layout.most else f"{layout.least} to {layout.most}"
        return PeerError(f"{name}: has {header.size} bytes of payload; it must have {right}")
    return None


def _nothing(_: bytes) -> None:
    return None


def _u64(data: bytes) -> int:
    return int(_U64.parse(data).value)


def _state(data: bytes) -> RingState:
    raw = _STATE.parse(data)
    return RingState(raw.ring, raw.number)


def _addresses(data: bytes) -> RingAddresses:
    raw = _ADDRESSES.parse(data)
    return RingAddresses(raw.ring, raw.flags, raw.descriptors, raw.device, raw.driver, raw.log)


def _table(data: bytes) -> tuple[Region, ...]:
    """Room for more regions than are used is fine: user-mode Linux always sends two."""
    count = Int32un.parse(data)
    room = (len(data) - _TABLE_START) // _REGION.sizeof()
    if count > room:
        raise PeerError(f"SET_MEM_TABLE: speaks of {count} regions; its payload has room for {room}")
    return tuple(map(_region, _TABLE.parse(data).regions))


def _one_region(data: bytes) -> Region:
    return _region(_ONE_REGION.parse(data).region)


def _region(raw: Any) -> Region:
    return Region(raw.guest_address, raw.size, raw.user_address, raw.offset)


def _log(data: bytes) -> Log:
    raw = _LOG.parse(data)
    return Log(raw.size, raw.offset)


def _exact(parse: Callable[[bytes], Payload], layout: Construct, fds: int = 0) -> _Layout:
    return _Layout(parse, layout.sizeof(), layout.sizeof(), fds)


_EMPTY: Final = _Layout(_nothing)
_LAYOUTS: Final[dict[Request, _Layout]] = {
    Request.GET_FEATURES: _EMPTY,
    Request.SET_FEATURES: _exact(_u64, _U64),
    Request.GET_PROTOCOL_FEATURES: _EMPTY,
    Request.SET_PROTOCOL_FEATURES: _exact(_u64, _U64),
    Request.SET_OWNER: _EMPTY,
    Request.RESET_OWNER: _EMPTY,
    Request.RESET_DEVICE: _EMPTY,
    Request.GET_QUEUE_NUM: _EMPTY,
    Request.NET_SET_MTU: _exact(_u64, _U64),
    Request.SEND_RARP: _exact(_u64, _U64),
    Request.SET_BACKEND_REQ_FD: _Layout(_nothing, fds=1),
    Request.GET_STATUS: _EMPTY,
    Request.SET_STATUS: _exact(_u64, _U64),
    Request.SET_MEM_TABLE: _Layout(_table, _TABLE_START, _TABLE_BYTES, MOST_FDS),
    Request.GET_MAX_MEM_SLOTS: _EMPTY,
    Request.ADD_MEM_REG: _exact(_one_region, _ONE_REGION, fds=1),
    Request.REM_MEM_REG: _exact(_one_region, _ONE_REGION, fds=1),
    Request.SET_LOG_BASE: _exact(_log, _LOG, fds=1),
    Request.SET_LOG_FD: _Layout(_nothing, fds=1),
    Request.SET_VRING_NUM: _exact(_state, _STATE),
    Request.SET_VRING_ADDR: _exact(_addresses, _ADDRESSES),
    Request.SET_VRING_BASE: _exact(_state, _STATE),
    Request.GET_VRING_BASE: _exact(_state, _STATE),
    Request.SET_VRING_KICK: _exact(_u64, _U64, fds=1),
    Request.SET_VRING_CALL: _exact(_u64, _U64, fds=1),
    Request.SET_VRING_ERR: _exact(_u64, _U64, fds=1),
    Request.SET_VRING_ENABLE: _exact(_state, _STATE),
}
