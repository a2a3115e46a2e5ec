"""What a capture may be of: ports, or links with an interface for each direction. Pure.

A link is a cable, or one port's place on a switch, unless that is where a cable ends. On a cable every frame is
recorded once for its way: where it is offered to the port it leaves by, which is where impairments, limits and the
peer decide; or where it came in, if it was lost there.
"""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import filterfalse
from typing import Final, Literal, Protocol

from vbackend.dataplane import CaptureLane
from vbackend.ports.names import is_inner
from vbackend.snapshot import BackendSnapshot

__all__ = ["UNIT_KINDS", "CaptureInterface", "Joined", "Link", "links_of", "links_of_snapshot"]

UNIT_KINDS: Final = frozenset(
    {"tun", "unit", "tunfile"}
)  # ports whose packets are bare IP, and have no Ethernet header


class Joined(Protocol):
    """A segment and the ports on it, as `SegmentSnapshot` has them."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> Literal["switch", "cable"]: ...
    @property
    def ports(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class CaptureInterface:
    """One interface of a capture, by its name in the file, and which frames of which ports it has."""

    name: str
    description: str
    taps: tuple[tuple[str, CaptureLane], ...]  # name of a port, and what of it; of one link type


@dataclass(frozen=True, slots=True)
class Link:
    """What may be captured by one title."""

    title: str  # "core", "lan/r1:eth0"
    interfaces: tuple[CaptureInterface, CaptureInterface]  # there and back


def links_of(segments: Iterable[Joined], units: Container[str]) -> Iterator[Link]:
    """All links, in the order of the segments and their ports. `units`: ports that carry bare IP. A cable that lacks an
    end is none."""
    for segment in segments:
        if segment.kind == "switch":
            for port in filterfalse(is_inner, segment.ports):
                there, back = f"{port} → {segment.name}", f"{segment.name} → {port}"
                yield _link(f"{segment.name}/{port}", (there, ((port, "rx"),)), (back, ((port, "tx"),)))
        elif len(segment.ports) == 2:
            one, two = segment.ports
            yield _cable(segment.name, one, two, units)


def links_of_snapshot(snapshot: BackendSnapshot) -> list[Link]:
    """All links of a backend that is somewhere else."""
    units = {port.name for port in snapshot.ports if port.kind in UNIT_KINDS}
    return list(links_of(snapshot.segments, units))


def _cable(title: str, one: str, two: str, units: Container[str]) -> Link:
    there, back = f"{one} → {two}", f"{two} → {one}"
    if one in units:  # its packets cannot stand beside frames: the other end has all
        return _link(title, (there, ((two, "tx"),)), (back, ((two, "rx"),)))
    if two in units:
        return _link(title, (there, ((one, "rx"),)), (back, ((one, "tx"),)))
    return _link(title, (there, ((one, "rx-lost"), (two, "tx"))), (back, ((two, "rx-lost"), (one, "tx"))))


_Way = tuple[str, tuple[tuple[str, CaptureLane], ...]]


def _link(title: str, there: _Way, back: _Way) -> Link:
    one, two = (CaptureInterface(name, f"link {title}", taps) for name, taps in (there, back))
    return Link(title, (one, two))
