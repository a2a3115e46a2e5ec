"""The driver's side of a split virtqueue (VIRTIO 1.2 §2.7).

descriptors   { u64 address, u32 length, u16 flags, u16 next }, as many as the size
driver        u16 flags, u16 idx, u16 heads, u16 used_event
device        u16 flags, u16 idx, { u32 id, u32 length }, u16 avail_event
"""

from collections.abc import Sequence
from typing import Final

from vbackend.testing.vhost.memory import GuestMemory, fence
from vbackend.testing.vhost.ring import (
    INDIRECT,
    NEXT,
    WRITE,
    Buffer,
    DeviceError,
    DriverRing,
    RingFullError,
    Used,
    need_event,
)

__all__ = ["SplitRing"]

_NO_INTERRUPT: Final = 1  # VIRTQ_AVAIL_F_NO_INTERRUPT
_NO_NOTIFY: Final = 1  # VIRTQ_USED_F_NO_NOTIFY


class SplitRing(DriverRing):
    """`start`: where the indexes begin, to see them wrap soon."""

    def __init__(
        self,
        memory: GuestMemory,
        size: int,
        *,
        event_idx: bool = False,
        in_order: bool = False,
        start: int = 0,
    ) -> None:
        areas = ((16 * size, 16), (6 + 2 * size, 2), (6 + 8 * size, 4))
        super().__init__(memory, size, areas, event_idx=event_idx, in_order=in_order)
        self._next = start
        self._published = self._asked = self._reaped = start
        memory.store(self.driver + 2, start)
        memory.store(self.device + 2, start)

    @property
    def base(self) -> int:
        return self.memory.load(self.device + 2)

    @property
    def used_event(self) -> int:
        """The guest address of the field."""
        return self.driver + 4 + 2 * self.size

    @property
    def avail_event(self) -> int:
        """The guest address of the field."""
        return self.device + 4 + 8 * self.size

    def post(self, buffers: Sequence[Buffer], *, indirect: bool = False) -> int:
        count = 1 if indirect else len(buffers)
        if len(self._ids) < count:
            raise RingFullError(f"{count} descriptors wanted, {len(self._ids)} of {self.size} free")
        indexes = [self._ids.popleft() for _ in range(count)]
        head = indexes[0]
        if indirect:
            table = self._table(head, len(buffers))
            self._chain(table, list(range(len(buffers))), buffers)
            self.set_descriptor(head, table, 16 * len(buffers), INDIRECT)
        else:
            self._chain(self.descriptors, indexes, buffers)
        self._depart(head, indexes, buffers)
        self.offer(head)
        return head

    def offer(self, head: int) -> None:
        """Put any number into the available ring; `publish` shows it."""
        self.memory.store(self.driver + 4 + 2 * (self._next % self.size), head)
        self._next = (self._next + 1) & 0xFFFF

    def set_descriptor(
        self, index: int, address: int, length: int, flags: int = 0, following: int = 0
    ) -> None:
        """Write a descriptor of the table raw."""
        self.poke(self.descriptors + 16 * index, "QIHH", address, length, flags, following)

    def publish(self) -> None:
        self.set_index(self._next)
        self._published = self._next

    def set_index(self, index: int) -> None:
        """Write `idx` of the driver area raw."""
        self.memory.store(self.driver + 2, index)

    def kick_wanted(self) -> bool:
        fence()
        before, self._asked = self._asked, self._published
        if self.event_idx:
            return need_event(self.memory.load(self.avail_event), self._published, before)
        return not self.memory.load(self.device) & _NO_NOTIFY

    def want_calls(self, after: int | None = 0) -> None:
        if self.event_idx:
            self.memory.store(self.used_event, self._reaped + (-1 if after is None else after))
        else:
            self.memory.store(self.driver, _NO_INTERRUPT if after is None else 0)
        fence()

    @property
    def used_waiting(self) -> bool:
        return self.memory.load(self.device + 2) != self._reaped

    def reap(self) -> list[Used]:
        index = self.memory.load(self.device + 2)
        count = (index - self._reaped) & 0xFFFF
        if count > self.size:
            raise DeviceError(f"the used index went from {self._reaped} to {index} in a ring of {self.size}")
        done = []
        for _ in range(count):
            entry = self.device + 4 + 8 * (self._reaped % self.size)
            id_, length = self.peek(entry, "II")
            for used, info in self._return(id_, length):
                self._ids.extend(info.descriptors)
                done.append(used)
            self._reaped = (self._reaped + 1) & 0xFFFF
        return done

    def _chain(self, table: int, indexes: Sequence[int], buffers: Sequence[Buffer]) -> None:
        for at, buffer in enumerate(buffers):
            last = at == len(buffers) - 1
            flags = (WRITE if buffer.writable else 0) | (0 if last else NEXT)
            following = 0 if last else indexes[at + 1]
            self.poke(table + 16 * indexes[at], "QIHH", buffer.address, buffer.length, flags, following)
