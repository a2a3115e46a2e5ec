"""DHCP messages for IPv4 (RFC 2131 2, options RFC 2132): bytes to a `Request`, a `Reply` to bytes. Pure.

Options in more than one piece are put together (RFC 3396), also from the fields `file` and `sname` where the client
says so. Every number is big-endian. `WireError` for what no client sends.
"""

from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address
from typing import Final

from construct import Bytes, Int8ub, Int16ub, Int32ub, StreamError, Struct

from vbackend.services.config import Route, is_name
from vbackend.services.reasons import Drop, WireError

__all__ = [
    "UNSPECIFIED",
    "Kind",
    "Option",
    "Reply",
    "Request",
    "build_reply",
    "encode_routes",
    "parse_request",
]

UNSPECIFIED: Final = IPv4Address(0)
_COOKIE: Final = bytes([99, 130, 83, 99])
_BROADCAST_FLAG: Final = 0x8000
_SHORTEST: Final = 300  # BOOTP's length, which old clients and relays want (RFC 1542 2.1)
_LEAST_MAXIMUM: Final = 576  # what every client takes: the IP datagram's length (RFC 2131 2)
_LONGEST: Final = 1472
_HEADERS: Final = 28  # IP's and UDP's

_HEAD: Final = Struct(
    "op" / Int8ub,
    "htype" / Int8ub,
    "hlen" / Int8ub,
    "hops" / Int8ub,
    "xid" / Int32ub,
    "secs" / Int16ub,
    "flags" / Int16ub,
    "ciaddr" / Bytes(4),
    "yiaddr" / Bytes(4),
    "siaddr" / Bytes(4),
    "giaddr" / Bytes(4),
    "chaddr" / Bytes(16),
    "sname" / Bytes(64),
    "file" / Bytes(128),
    "cookie" / Bytes(4),
)


class Kind(IntEnum):
    """Option 53."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


class Option(IntEnum):
    PAD = 0
    MASK = 1
    ROUTER = 3
    DNS = 6
    HOSTNAME = 12
    DOMAIN = 15
    MTU = 26
    BROADCAST = 28
    REQUESTED = 50
    LEASE = 51
    OVERLOAD = 52
    KIND = 53
    SERVER = 54
    WANTED = 55
    MAX_SIZE = 57
    T1 = 58
    T2 = 59
    CLIENT = 61
    FQDN = 81
    ROUTES = 121
    END = 255


@dataclass(frozen=True, slots=True)
class Request:
    """What a client says. `hostname`: checked, lower case, without domain. `wanted`: option codes, None: not told."""

    kind: Kind
    xid: int
    mac: bytes
    ciaddr: IPv4Address = UNSPECIFIED
    giaddr: IPv4Address = UNSPECIFIED
    broadcast: bool = False
    secs: int = 0
    client_id: bytes | None = None
    hostname: str | None = None
    requested: IPv4Address | None = None
    server: IPv4Address | None = None
    lease: int | None = None
    wanted: bytes | None = None
    max_size: int = _LEAST_MAXIMUM

    @property
    def client(self) -> bytes:
        """Who it is (RFC 2131 4.2): its client identifier, or its hardware address as type 1 identifiers have it."""
        return self.client_id or b"\x01" + self.mac


@dataclass(frozen=True, slots=True)
class Reply:
    """`options` in the order they are sent; those that do not fit what the client takes are left out, last first."""

    kind: Kind
    request: Request
    yiaddr: IPv4Address = UNSPECIFIED
    ciaddr: IPv4Address = UNSPECIFIED
    options: tuple[tuple[Option, bytes], ...] = ()


def parse_request(data: bytes) -> Request:
    try:
        head = _HEAD.parse(data)
    except StreamError:
        raise WireError(Drop.SHORT) from None
    mac = head.chaddr[:6]
    if (head.op, head.htype, head.hlen, head.cookie) != (1, 1, 6, _COOKIE) or mac[0] & 1 or not any(mac):
        raise WireError(Drop.DHCP_FORMAT)
    options = _options(data[_HEAD.sizeof() :], head.file, head.sname)
    kind = options.get(Option.KIND, b"")
    if len(kind) != 1:
        raise WireError(Drop.DHCP_FORMAT, "no message type")
    if kind[0] not in (Kind.DISCOVER, Kind.REQUEST, Kind.DECLINE, Kind.RELEASE, Kind.INFORM):
        raise WireError(Drop.DHCP_TYPE)
    lease, max_size = _number(options, Option.LEASE, 4), _number(options, Option.MAX_SIZE, 2)
    return Request(
        kind=Kind(kind[0]),
        xid=head.xid,
        mac=mac,
        ciaddr=IPv4Address(head.ciaddr),
        giaddr=IPv4Address(head.giaddr),
        broadcast=bool(head.flags & _BROADCAST_FLAG),
        secs=head.secs,
        client_id=_client_id(options),
        hostname=_hostname(options),
        requested=_address(options, Option.REQUESTED),
        server=_address(options, Option.SERVER),
        lease=lease,
        wanted=options.get(Option.WANTED),
        max_size=max(max_size or 0, _LEAST_MAXIMUM),
    )


def build_reply(reply: Reply) -> bytes:
    request = reply.request
    head = _HEAD.build(
        {
            "op": 2,
            "htype": 1,
            "hlen": 6,
            "hops": 0,
            "xid": request.xid,
            "secs": 0,
            "flags": _BROADCAST_FLAG if request.broadcast else 0,
            "ciaddr": reply.ciaddr.packed,
            "yiaddr": reply.yiaddr.packed,
            "siaddr": bytes(4),
            "giaddr": request.giaddr.packed,
            "chaddr": request.mac.ljust(16, b"\0"),
            "sname": bytes(64),
            "file": bytes(128),
            "cookie": _COOKIE,
        }
    )
    room = min(request.max_size - _HEADERS, _LONGEST) - len(head) - 1
    body = _encoded(Option.KIND, bytes([reply.kind]))
    for option, value in reply.options:
        encoded = _encoded(option, value)
        if len(body) + len(encoded) <= room:
            body += encoded
    return (bytes(head) + body + bytes([Option.END])).ljust(_SHORTEST, b"\0")


def encode_routes(routes: tuple[Route, ...]) -> bytes:
    """Option 121 (RFC 3442): of a destination only its significant bytes."""
    encoded = b""
    for network, router in routes:
        significant = (network.prefixlen + 7) // 8
        encoded += bytes([network.prefixlen]) + network.network_address.packed[:significant] + router.packed
    return encoded


def _encoded(option: Option, value: bytes) -> bytes:
    pieces = [value[at : at + 255] for at in range(0, len(value), 255)]
    return b"".join(bytes([option, len(piece)]) + piece for piece in pieces)


def _options(data: bytes, file: bytes, sname: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    _collect(data, found)
    overload = found.get(Option.OVERLOAD, b"")
    if overload and overload not in (b"\x01", b"\x02", b"\x03"):
        raise WireError(Drop.DHCP_FORMAT, "option overload")
    for bit, area in ((1, file), (2, sname)):  # in this order, RFC 3396 5
        if overload and overload[0] & bit:
            _collect(area, found)
    return found


def _collect(data: bytes, found: dict[int, bytes]) -> None:
    at = 0
    while at < len(data) and data[at] != Option.END:
        code, at = data[at], at + 1
        if code == Option.PAD:
            continue
        if at >= len(data) or at + 1 + data[at] > len(data):
            raise WireError(Drop.DHCP_FORMAT, "an option is cut off")
        end = at + 1 + data[at]
        found[code] = found.get(code, b"") + data[at + 1 : end]
        at = end


def _number(options: dict[int, bytes], option: Option, size: int) -> int | None:
    value = options.get(option)
    if value is None:
        return None
    if len(value) != size:
        raise WireError(Drop.DHCP_FORMAT, f"option {option} has {len(value)} bytes")
    return int.from_bytes(value)


def _address(options: dict[int, bytes], option: Option) -> IPv4Address | None:
    number = _number(options, option, 4)
    return None if number is None else IPv4Address(number)


def _client_id(options: dict[int, bytes]) -> bytes | None:
    value = options.get(Option.CLIENT)
    if value is None:
        return None
    if not 2 <= len(value) <= 255:  # RFC 2132 9.14
        raise WireError(Drop.DHCP_FORMAT, "client identifier")
    return value


def _hostname(options: dict[int, bytes]) -> str | None:
    """Option 12, or 81 (RFC 4702) in either encoding. A name that is none is as if it had not been sent."""
    name = options.get(Option.HOSTNAME, b"").rstrip(b"\0")
    fqdn = options.get(Option.FQDN, b"")
    if not name and len(fqdn) > 3:
        name = fqdn[3:]
        if fqdn[0] & 0x04:  # E: in DNS's encoding; the first label is all we want
            name = name[1 : 1 + name[0]]
    label = name.split(b".")[0].decode("ascii", "replace").lower()
    return label if label and is_name(label) else None
