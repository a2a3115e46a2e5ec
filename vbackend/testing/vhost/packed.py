"""The driver's side of a packed virtqueue (VIRTIO 1.2 §2.8).

descriptors   { u64 address, u32 length, u16 id, u16 flags }, written by both sides
driver        u16 position | wrap << 15, u16 flags: when the driver wants calls
device        the same: when the device wants kicks
"""

from collections.abc import Sequence
from typing import Final

from vbackend.testing.vhost.memory import GuestMemory, fence
from vbackend.testing.vhost.ring import (
    INDIRECT,
    NEXT,
    WRITE,
    Buffer,
    DriverRing,
    RingFullError,
    Used,
    need_event,
)

__all__ = ["AVAIL", "EVENT_DESC", "EVENT_DISABLE", "EVENT_ENABLE", "USED", "PackedRing"]

AVAIL: Final = 1 << 7
USED: Final = 1 << 15
EVENT_ENABLE: Final = 0  # RING_EVENT_FLAGS_*
EVENT_DISABLE: Final = 1
EVENT_DESC: Final = 2


class PackedRing(DriverRing):
    """Both wrap counters begin at 1."""

    def __init__(
        self, memory: GuestMemory, size: int, *, event_idx: bool = False, in_order: bool = False
    ) -> None:
        areas = ((16 * size, 16), (4, 4), (4, 4))
        super().__init__(memory, size, areas, event_idx=event_idx, in_order=in_order)
        self._next = self._reaped = 0
        self._next_wrap = self._reaped_wrap = 1
        self._free = size
        self._held: list[tuple[int, int]] = []  # heads not yet visible: slot and flags
        self._since_asked = 0

    @property
    def base(self) -> int:
        half = self._reaped | self._reaped_wrap << 15
        return half | half << 16

    @property
    def position(self) -> tuple[int, int]:
        """Slot and wrap counter of the next chain."""
        return self._next, self._next_wrap

    def post(self, buffers: Sequence[Buffer], *, indirect: bool = False) -> int:
        count = 1 if indirect else len(buffers)
        if self._free < count:
            raise RingFullError(f"{count} slots wanted, {self._free} of {self.size} free")
        id_ = self._ids.popleft()
        if indirect:
            table = self._table(id_, len(buffers))
            for at, buffer in enumerate(buffers):
                flags = WRITE if buffer.writable else 0
                self.poke(table + 16 * at, "QIHH", buffer.address, buffer.length, 0, flags)
            self.offer([(table, 16 * len(buffers), INDIRECT)], id_)
        else:
            self.offer([(each.address, each.length, WRITE if each.writable else 0) for each in buffers], id_)
        self._free -= count
        self._depart(id_, range(count), buffers)
        return id_

    def offer(self, chain: Sequence[tuple[int, int, int]], id_: int) -> None:
        """Any chain of (address, length, flags) at the next slots, chained by NEXT; `publish` shows it."""
        for at, (address, length, flags) in enumerate(chain):
            flags |= self.turn | (NEXT if at < len(chain) - 1 else 0)
            if at == 0:
                self._held.append((self._next, flags))
                flags ^= AVAIL | USED
            self.set_descriptor(self._next, address, length, id_, flags)
            self._advance()

    @property
    def turn(self) -> int:
        """The two flags that make a descriptor available in this round."""
        return AVAIL if self._next_wrap else USED

    def set_descriptor(self, slot: int, address: int, length: int, id_: int, flags: int) -> None:
        """Write a descriptor raw, its flags last."""
        at = self.descriptors + 16 * slot
        self.poke(at, "QIH", address, length, id_)
        self.memory.store(at + 14, flags)

    def publish(self) -> None:
        for slot, flags in reversed(self._held):  # the first one last: it hides the others
            self.memory.store(self.descriptors + 16 * slot + 14, flags)
        self._held.clear()

    def kick_wanted(self) -> bool:
        fence()
        added, self._since_asked = self._since_asked, 0
        event, flags = self.peek(self.device, "HH")
        if flags != EVENT_DESC:
            return flags == EVENT_ENABLE
        position = event & 0x7FFF
        if event >> 15 != self._next_wrap:
            position -= self.size
        return need_event(position, self._next, self._next - added)

    def want_calls(self, after: int | None = 0) -> None:
        if after is None:
            self.memory.store(self.driver + 2, EVENT_DISABLE)
        elif not self.event_idx:
            self.memory.store(self.driver + 2, EVENT_ENABLE)
        else:
            position, wrap = self._reaped + after, self._reaped_wrap
            if position >= self.size:
                position, wrap = position - self.size, wrap ^ 1
            self.memory.store(self.driver, position | wrap << 15)
            self.memory.store(self.driver + 2, EVENT_DESC)
        fence()

    @property
    def used_waiting(self) -> bool:
        flags = self.memory.load(self.descriptors + 16 * self._reaped + 14)
        return bool(flags & AVAIL) == bool(flags & USED) == bool(self._reaped_wrap)

    def reap(self) -> list[Used]:
        done: list[Used] = []
        while self.in_flight and self.used_waiting:
            length, id_, flags = self.peek(self.descriptors + 16 * self._reaped + 8, "IHH")
            length = length if flags & WRITE else 0  # §2.8.4: meaningless unless the device wrote
            for used, info in self._return(id_, length):
                self._ids.append(used.id)
                self._free += len(info.descriptors)
                self._skip(len(info.descriptors))
                done.append(used)
        return done

    def _advance(self) -> None:
        self._since_asked += 1
        self._next += 1
        if self._next == self.size:
            self._next, self._next_wrap = 0, self._next_wrap ^ 1

    def _skip(self, slots: int) -> None:
        self._reaped += slots
        if self._reaped >= self.size:
            self._reaped, self._reaped_wrap = self._reaped - self.size, self._reaped_wrap ^ 1
