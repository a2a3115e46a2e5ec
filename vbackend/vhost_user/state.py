"""What a front-end has told so far: its rings and its memory. Pure.

A ring, by what is known of it (vhost-user, "Ring states"):

    incomplete --size, addresses, kick, all in memory--> runs        disabled: it runs but does not forward
    runs --GET_VRING_BASE, new features, size, base or addresses, a reset, or its memory goes--> incomplete

Whatever makes it stop, but for its memory, also takes the kick back: the next SET_VRING_KICK starts it again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from vbackend.errors import PeerError
from vbackend.vhost_user.events import Region, RingAddresses

__all__ = ["MOST_SLOTS", "Memory", "Ring"]

MOST_SLOTS: Final = 32  # regions at a time; QEMU refuses a back-end that later has fewer
_ADDRESS_SPACE: Final = 1 << 64


@dataclass(slots=True)
class Ring:
    """One ring; `running` is what the engine was last told."""

    size: int = 0  # descriptors
    base: int = 0  # where to start, or where it stopped
    base_is_news: bool = False  # set by the front-end since the last start, which then beats where it stopped
    addresses: RingAddresses | None = None
    kicked: bool = False
    enabled: bool = False
    running: bool = False
    forwarding: bool = False
    problem: str = ""  # why the engine stopped it

    def interrupt(self) -> None:
        """What it runs with changes: it has to be kicked anew."""
        if self.running:
            self.kicked = False

    def lacks(self, memory: "Memory") -> str:
        """What keeps it from running, in words; "" when nothing does."""
        if not self.kicked:
            return "it has no kick"
        if not self.size:
            return "its size is not set"
        if self.addresses is None:
            return "its addresses are not set"
        for address in (self.addresses.descriptors, self.addresses.driver, self.addresses.device):
            if not memory.holds(address):
                return f"{address:#x} is in no memory region"
        return ""


@dataclass(slots=True)
class Memory:
    """The regions of the guest's memory."""

    regions: list[Region] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(region.size for region in self.regions)

    def holds(self, user_address: int) -> bool:
        return any(0 <= user_address - region.user_address < region.size for region in self.regions)

    def replace(self, request: str, regions: Sequence[Region]) -> None:
        """PeerError: one is impossible, two overlap; then nothing has changed."""
        fresh = Memory()
        for region in regions:
            fresh.add(request, region)
        self.regions = fresh.regions

    def add(self, request: str, region: Region) -> None:
        """PeerError as `replace`, or there are `MOST_SLOTS` already."""
        if len(self.regions) >= MOST_SLOTS:
            raise PeerError(f"{request}: there are {MOST_SLOTS} regions already, as many as there can be")
        if not region.size:
            raise PeerError(f"{request}: {region} is empty")
        for what, start in (
            ("guest address", region.guest_address),
            ("user address", region.user_address),
            ("offset", region.offset),
        ):
            if start + region.size > _ADDRESS_SPACE:
                raise PeerError(f"{request}: {region} goes past 2**64, from {what} {start:#x}")
        for other in self.regions:
            distance = region.guest_address - other.guest_address
            if -region.size < distance < other.size:
                raise PeerError(f"{request}: {region} overlaps {other}")
        self.regions.append(region)

    def find(self, region: Region) -> Region | None:
        """The known region with these addresses and this size; its offset does not matter."""
        for known in self.regions:
            if (known.guest_address, known.size, known.user_address) == (
                region.guest_address,
                region.size,
                region.user_address,
            ):
                return known
        return None
