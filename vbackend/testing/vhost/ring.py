"""What both layouts of a virtqueue share on the driver's side (VIRTIO 1.2 §2.7, §2.8).

A driver posts chains of buffers, publishes them, kicks when the device wants it, and reaps what was used. It keeps
its own books and believes nothing: a device that returns what it does not have is a `DeviceError`. For everything
a driver must not do there are the raw fields, `poke`d at the addresses this class tells.
"""

import struct
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vbackend.testing.vhost.memory import GuestMemory

__all__ = [
    "INDIRECT",
    "NEXT",
    "WRITE",
    "Buffer",
    "DeviceError",
    "DriverRing",
    "RingFullError",
    "Used",
    "need_event",
]

NEXT: Final = 1  # VIRTQ_DESC_F_NEXT
WRITE: Final = 2  # VIRTQ_DESC_F_WRITE: the device writes
INDIRECT: Final = 4  # VIRTQ_DESC_F_INDIRECT


class DeviceError(AssertionError):
    """The device broke the rules of the ring."""


class RingFullError(Exception):
    """No room for the chain until something is reaped."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """A piece of guest memory in a chain."""

    address: int
    length: int
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Used:
    """A chain that came back: its id and the bytes written into it."""

    id: int
    length: int


@dataclass(frozen=True, slots=True)
class _InFlight:
    descriptors: tuple[int, ...]
    writable: int


def need_event(event: int, new: int, old: int) -> bool:
    """Whether an index that went from `old` to `new` passed `event` (VIRTIO 1.2 §2.7.10, vring_need_event)."""
    return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF


class DriverRing(ABC):
    """One virtqueue in `memory`. `descriptors`, `driver` and `device` are the guest addresses of its three areas."""

    def __init__(
        self,
        memory: GuestMemory,
        size: int,
        areas: Sequence[tuple[int, int]],
        *,
        event_idx: bool,
        in_order: bool,
    ) -> None:
        """`areas`: bytes and alignment of the three areas; they are zero."""
        self.memory: Final = memory
        self.size: Final = size
        self.event_idx: Final = event_idx
        self.in_order: Final = in_order
        self.descriptors, self.driver, self.device = (memory.allocate(n, align=a) for n, a in areas)
        self._tables: dict[int, tuple[int, int]] = {}
        self._flight: dict[int, _InFlight] = {}
        self._ids = deque(range(size))

    @property
    def in_flight(self) -> list[int]:
        """Ids posted and not yet reaped, oldest first."""
        return list(self._flight)

    @property
    @abstractmethod
    def base(self) -> int:
        """What SET_VRING_BASE says so that the device goes on behind the last chain that it returned."""

    @abstractmethod
    def post(self, buffers: Sequence[Buffer], *, indirect: bool = False) -> int:
        """Write a chain, invisible until `publish`; returns its id. RingFullError when it does not fit."""

    @abstractmethod
    def publish(self) -> None:
        """Make all that was posted visible, at once."""

    @abstractmethod
    def kick_wanted(self) -> bool:
        """Whether the device asked to be told of what was published since the last time this was asked."""

    @abstractmethod
    def want_calls(self, after: int | None = 0) -> None:
        """Ask for a call at the next chain used, None: for no calls.

        `after`: with EVENT_IDX that many chains (packed: slots) later; without it is every time or never.
        """

    @property
    @abstractmethod
    def used_waiting(self) -> bool:
        """Whether `reap` would find something."""

    @abstractmethod
    def reap(self) -> list[Used]:
        """What came back since the last time. DeviceError when it was never posted or came out of order."""

    def poke(self, address: int, layout: str, *values: int) -> None:
        """Overwrite raw fields: `layout` as for `struct`, little endian."""
        self.memory.write(address, struct.pack(f"<{layout}", *values))

    def peek(self, address: int, layout: str) -> tuple[int, ...]:
        return struct.unpack(f"<{layout}", self.memory.read(address, struct.calcsize(f"<{layout}")))

    def _table(self, id_: int, entries: int) -> int:
        """The address of an indirect table that belongs to this id for good."""
        address, room = self._tables.get(id_, (0, 0))
        if room < entries:
            address = self.memory.allocate(16 * entries, align=16)
            self._tables[id_] = address, entries
        return address

    def _depart(self, id_: int, descriptors: Sequence[int], buffers: Sequence[Buffer]) -> None:
        self._flight[id_] = _InFlight(
            tuple(descriptors), sum(each.length for each in buffers if each.writable)
        )

    def _return(self, id_: int, length: int) -> list[tuple[Used, _InFlight]]:
        """Take a used id out of the books; with IN_ORDER it may stand for all before it (§2.7.9, §2.8.10)."""
        if id_ not in self._flight:
            raise DeviceError(f"id {id_} is used but not in flight: {self.in_flight}")
        ids = [id_]
        if self.in_order:
            ids = self.in_flight[: self.in_flight.index(id_) + 1]
        gone = [(each, self._flight.pop(each)) for each in ids]
        if length > gone[-1][1].writable:
            raise DeviceError(f"{length} bytes written into id {id_}, which has {gone[-1][1].writable}")
        return [(Used(each, length if each == id_ else info.writable), info) for each, info in gone]
