"""A strict reader of the pcapng files vbackend makes (draft-ietf-opsawg-pcapng-04), written apart from the writer.

Strict: little-endian, one section, every length and padding byte as it has to be, interfaces before their packets,
statistics last. Anything else is an AssertionError that says where.
"""

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

__all__ = ["Capture", "CapturedPacket", "InterfaceDescription", "parse", "read"]

_SECTION: Final = 0x0A0D0D0A
_DIRECTIONS: Final = {0: "", 1: "in", 2: "out"}

Options = dict[int, bytes]


@dataclass(frozen=True, slots=True)
class InterfaceDescription:
    name: str
    description: str
    link_type: int
    snaplen: int
    filter: str | None


@dataclass(frozen=True, slots=True)
class CapturedPacket:
    interface: str
    direction: str  # "in": from the port's peer, "out": to it, "": the interface has only one
    time_ns: int
    data: bytes
    length: int  # before it was cut
    lost_before: int
    comment: str | None


@dataclass
class Capture:
    application: str
    interfaces: list[InterfaceDescription] = field(default_factory=list)
    packets: list[CapturedPacket] = field(default_factory=list)
    statistics: dict[str, dict[str, int]] = field(default_factory=dict)  # recv, drop, accept, delivered

    def of(self, interface: str, direction: str | None = None) -> list[CapturedPacket]:
        """The packets of one interface, and direction."""
        return [p for p in self.packets if p.interface == interface and direction in (None, p.direction)]


def read(path: Path) -> Capture:
    """The file, whole."""
    return parse(path.read_bytes())


def parse(data: bytes) -> Capture:
    """The bytes of a file."""
    capture: Capture | None = None
    at = 0
    while at < len(data):
        assert len(data) - at >= 12, f"offset {at}: half a block"
        kind, length = struct.unpack_from("<II", data, at)
        assert length >= 12, f"offset {at}: a block of {length} bytes"
        assert length % 4 == 0, f"offset {at}: a block of {length} bytes"
        assert at + length <= len(data), f"offset {at}: half a block"
        (again,) = struct.unpack_from("<I", data, at + length - 4)
        assert again == length, f"offset {at}: length {length}, then {again}"
        body = data[at + 8 : at + length - 4]
        if kind == _SECTION:
            assert capture is None, f"offset {at}: a second section"
            capture = _section(body)
        else:
            assert capture is not None, f"offset {at}: no section header"
            assert kind in _BLOCKS, f"offset {at}: block type {kind}"
            _BLOCKS[kind](capture, body)
        at += length
    assert capture is not None, "an empty file"
    return capture


def _section(body: bytes) -> Capture:
    magic, major, minor, length = struct.unpack_from("<IHHQ", body)
    assert (magic, major, minor, length) == (0x1A2B3C4D, 1, 0, 2**64 - 1), "section header"
    return Capture(_options(body[16:])[4].decode())


def _interface(capture: Capture, body: bytes) -> None:
    assert not capture.statistics, "an interface after statistics"
    link_type, reserved, snaplen = struct.unpack_from("<HHI", body)
    options = _options(body[8:])
    assert reserved == 0, "interface description: reserved field"
    assert options[9] == b"\x09", "interface description: not nanoseconds"
    expression = options.get(11)
    assert expression is None or expression[0] == 0, "interface description: not a filter in words"
    capture.interfaces.append(
        InterfaceDescription(
            options[2].decode(),
            options[3].decode(),
            link_type,
            snaplen,
            None if expression is None else expression[1:].decode(),
        )
    )


def _packet(capture: Capture, body: bytes) -> None:
    assert not capture.statistics, "a packet after statistics"
    number, high, low, captured, length = struct.unpack_from("<IIIII", body)
    interface = capture.interfaces[number]
    assert captured == min(length, captured) <= interface.snaplen, "packet: captured length"
    end = 20 + captured
    padded = end + -captured % 4
    assert not any(body[end:padded]), "packet: padding"
    options = _options(body[padded:])
    (flags,) = struct.unpack("<I", options.get(2, bytes(4)))
    comment = options.get(1)
    capture.packets.append(
        CapturedPacket(
            interface.name,
            _DIRECTIONS[flags],
            high << 32 | low,
            body[20:end],
            length,
            int.from_bytes(options.get(4, b""), "little"),
            None if comment is None else comment.decode(),
        )
    )


def _statistics(capture: Capture, body: bytes) -> None:
    number, _, _ = struct.unpack_from("<III", body)
    names = {4: "recv", 5: "drop", 6: "accept", 8: "delivered"}
    options = _options(body[12:])
    found = {name: int.from_bytes(options[code], "little") for code, name in names.items() if code in options}
    capture.statistics[capture.interfaces[number].name] = found


_BLOCKS: Final = {1: _interface, 5: _statistics, 6: _packet}


def _options(data: bytes) -> Options:
    found: Options = {}
    at = 0
    while True:
        code, length = struct.unpack_from("<HH", data, at)
        if code == 0:
            assert (length, at + 4) == (0, len(data)), "options: something behind their end"
            return found
        assert code not in found, f"options: {code} twice"
        found[code] = data[at + 4 : at + 4 + length]
        assert len(found[code]) == length, f"options: {code} is cut off"
        padded = length + -length % 4
        assert not any(data[at + 4 + length : at + 4 + padded]), "options: padding"
        at += 4 + padded
