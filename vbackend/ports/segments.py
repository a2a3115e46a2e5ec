"""The segments of one backend by name: what ports are joined to, and who may be.

Not here: ports themselves. Rule: a segment is removed only when no port is on it.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from vbackend.dataplane import Dataplane
from vbackend.errors import ConfigError
from vbackend.ports.base import Port
from vbackend.ports.spec import PortSpec, takes_many
from vbackend.snapshot import FdbEntry, SegmentSnapshot

__all__ = ["Segment", "SegmentKind", "Segments"]

SegmentKind = Literal["switch", "cable"]


@dataclass(frozen=True, slots=True)
class Segment:
    """One switch or cable. `number` is the engine's."""

    name: str
    kind: SegmentKind
    number: int

    def check(self, present: int, specs: Collection[PortSpec], *, to_come: int = 0) -> None:
        """ConfigError when these ports cannot be joined, with `present` ports there and `to_come` still to come."""
        if self.kind != "cable":
            return
        for spec in specs:
            if takes_many(spec):
                raise ConfigError(f"port {spec.text!r} takes many guests, a cable joins two ports")
        if present + len(specs) + to_come > 2:
            what = f"port {next(iter(specs)).text!r}: " if specs else ""
            raise ConfigError(
                f"{what}cable {self.name!r} joins two ports and has both; remove one first, or use a switch"
            )

    def snapshot(self, dataplane: Dataplane, names: Mapping[int, str]) -> SegmentSnapshot:
        """`names`: of its ports, by their number in the engine."""
        fdb = tuple(
            FdbEntry(mac=mac.hex(":"), port=names[port], age=age_ms / 1000)
            for mac, port, age_ms in dataplane.fdb(self.number)
            if port in names
        )
        return SegmentSnapshot(name=self.name, kind=self.kind, ports=tuple(names.values()), fdb=fdb)


class Segments:
    """All of them. `dataplane` makes and keeps their other half."""

    def __init__(self, dataplane: Dataplane) -> None:
        self._dataplane: Final = dataplane
        self._found: Final[dict[str, Segment]] = {}

    def add(self, name: str, kind: SegmentKind) -> Segment:
        """ConfigError: the name is taken."""
        if name in self._found:
            raise ConfigError(f"there is a segment {name!r} already; take another name")
        number = self._dataplane.add_switch() if kind == "switch" else self._dataplane.add_cable()
        segment = self._found[name] = Segment(name, kind, number)
        return segment

    def remove(self, name: str, ports: Iterable[Port]) -> None:
        """ConfigError: there is none of that name, or ports are on it."""
        segment = self.get(name)
        left = ", ".join(port.name for port in ports if port.segment is segment)
        if left:
            raise ConfigError(f"{segment.kind} {name!r} has ports still ({left}); remove them first")
        self._dataplane.remove_segment(segment.number)
        del self._found[name]

    def get(self, name: str | None) -> Segment:
        """None: the only one. ConfigError: there is none of that name, or more than one to choose from."""
        if name is None and len(self._found) == 1:
            return next(iter(self._found.values()))
        known = ", ".join(self._found) or "none"
        if name is None:
            raise ConfigError(f"which segment is not said; there are {known}")
        try:
            return self._found[name]
        except KeyError:
            raise ConfigError(f"there is no segment {name!r}; there are {known}") from None

    def snapshots(self, ports: Iterable[Port]) -> tuple[SegmentSnapshot, ...]:
        """In the order in which they were added."""
        names: dict[str, dict[int, str]] = {name: {} for name in self._found}
        for port in ports:
            if port.engine_port is not None:
                names[port.segment.name][port.engine_port] = port.name
        return tuple(each.snapshot(self._dataplane, names[each.name]) for each in self._found.values())
