"""Packets of a capture, out of the pcapng stream of vbackend (capture/pcapng.py writes it). Pure."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vbackend.testing.frames import frame_line

__all__ = ["Packet", "PacketReader", "preamble"]

_SECTION: Final = 0x0A0D0D0A
_INTERFACE: Final = 1
_PACKET: Final = 6
_OPT_COMMENT: Final = 1
_IF_NAME: Final = 2
_ARROW: Final = " → "  # between the ends of a link, in the name of an interface


@dataclass(frozen=True, slots=True)
class Packet:
    """A frame on a link, and what became of it."""

    frame: bytes
    time: float  # seconds since the epoch
    source: str  # "r1:eth1", or a switch
    target: str
    verdict: str = ""  # "lost: impairment loss, seed 7", "delayed 50 ms"; empty: it arrived as it was sent

    def __bytes__(self) -> bytes:
        return self.frame

    def __str__(self) -> str:
        words = f"{self.source}{_ARROW}{self.target}: {frame_line(self.frame)}"
        return f"{words} ({self.verdict})" if self.verdict else words


class PacketReader:
    """Reads whole blocks, as `vbackend.capture.pcapng.Blocks` cuts them."""

    def __init__(self) -> None:
        self._interfaces: list[str] = []

    def feed(self, blocks: bytes) -> Iterator[Packet]:
        for kind, body in _walk(blocks):
            if kind == _SECTION:
                self._interfaces.clear()
            elif kind == _INTERFACE:
                self._interfaces.append(_text(body[8:], _IF_NAME))
            elif kind == _PACKET:
                yield self._packet(body)

    def _packet(self, body: bytes) -> Packet:
        interface, high, low, kept, _ = struct.unpack_from("<IIIII", body)
        source, _, target = self._interfaces[interface].partition(_ARROW)
        verdict = _text(body[20 + kept + -kept % 4 :], _OPT_COMMENT)
        return Packet(body[20 : 20 + kept], (high << 32 | low) / 1e9, source, target, verdict)


def preamble(blocks: bytes) -> bytes:
    """The blocks that packets need in front of them: sections and interfaces."""
    kept, at = [], 0
    for kind, body in _walk(blocks):
        length = len(body) + 12
        if kind in (_SECTION, _INTERFACE):
            kept.append(blocks[at : at + length])
        at += length
    return b"".join(kept)


def _walk(blocks: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(blocks):
        kind, length = struct.unpack_from("<II", blocks, at)
        yield kind, blocks[at + 8 : at + length - 4]
        at += length


def _text(options: bytes, wanted: int) -> str:
    """An option's text; empty when it is not there."""
    at = 0
    while at + 4 <= len(options):
        code, length = struct.unpack_from("<HH", options, at)
        if code == wanted:
            return options[at + 4 : at + 4 + length].decode(errors="replace")
        at += 4 + length + -length % 4
    return ""
