"""A guest's memory: regions of memfds at guest addresses with holes between them, and a dirty log.

The back-end maps the same pages. Numbers that both sides wait on go through `load` and `store`, which touch memory
once; anything longer is copied as bytes.
"""

import mmap
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

__all__ = ["PAGE", "DirtyLog", "GuestMemory", "Region", "fence"]

PAGE: Final = 4096
_USER_BASE: Final = 0x7F00_0000_0000  # like a front-end's own mappings, so unlike any guest address

_barrier = threading.Lock()


def fence() -> None:
    """A full memory barrier: taking and leaving a lock are read-modify-write operations."""
    with _barrier:
        pass


@dataclass(frozen=True, slots=True)
class Region:
    """One region as the protocol describes it; `dataclasses.replace` makes a lie of it."""

    guest_address: int
    size: int
    user_address: int
    offset: int
    fd: int

    @property
    def wire(self) -> tuple[int, int, int, int]:
        """In the order of `wire.memory_table`."""
        return self.guest_address, self.size, self.user_address, self.offset

    @property
    def end(self) -> int:
        return self.guest_address + self.size


class GuestMemory:
    """Sparse physical memory. Addresses are guest addresses unless the name says otherwise."""

    def __init__(self, places: Iterable[tuple[int, int]] = ((0, 16 << 20),)) -> None:
        """`places`: guest address and size of each region, whole pages; each has a memfd of its own."""
        self._maps: dict[Region, tuple[mmap.mmap, memoryview]] = {}
        self._free: dict[Region, int] = {}
        try:
            for guest_address, size in places:
                self.add(guest_address, size)
        except BaseException:
            self.close()
            raise

    @property
    def regions(self) -> list[Region]:
        """In the order they were added."""
        return list(self._maps)

    def add(self, guest_address: int, size: int, *, offset: int = 0) -> Region:
        """One more region, at `offset` of its file; the back-end is not told."""
        fd = os.memfd_create("guest", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, offset + size)
            mapped = mmap.mmap(fd, size, offset=offset)
        except BaseException:
            os.close(fd)
            raise
        region = Region(guest_address, size, _USER_BASE + guest_address, offset, fd)
        self._maps[region] = mapped, memoryview(mapped).cast("H")
        self._free[region] = guest_address
        return region

    def remove(self, region: Region) -> None:
        """Unmap it here and close its descriptor; the back-end is not told."""
        mapped, words = self._maps.pop(region)
        del self._free[region]
        words.release()
        mapped.close()
        os.close(region.fd)

    def allocate(self, size: int, *, align: int = 1, region: Region | None = None) -> int:
        """The guest address of `size` bytes that nobody else was given. MemoryError when no region has them."""
        for each in self._maps if region is None else [region]:
            start = -(-self._free[each] // align) * align
            if start + size <= each.end:
                self._free[each] = start + size
                return start
        raise MemoryError(f"no region has {size} bytes left")

    def user_address(self, address: int) -> int:
        """Where the front-end says that it has this guest address."""
        region = self._region(address, 0)
        return region.user_address + address - region.guest_address

    def read(self, address: int, size: int) -> bytes:
        """Bytes across adjacent regions. ValueError where there is a hole."""
        parts = []
        while size:
            region = self._region(address, 1)
            start = address - region.guest_address
            part = self._maps[region][0][start : start + min(size, region.size - start)]
            parts.append(part)
            address, size = address + len(part), size - len(part)
        return b"".join(parts)

    def write(self, address: int, data: bytes) -> None:
        """Bytes across adjacent regions. ValueError where there is a hole; what came before it is written."""
        while data:
            region = self._region(address, 1)
            start = address - region.guest_address
            part = data[: region.size - start]
            self._maps[region][0][start : start + len(part)] = part
            address, data = address + len(part), data[len(part) :]

    def load(self, address: int) -> int:
        """A little-endian u16 at an even address, read in one piece."""
        region = self._region(address, 2)
        return self._maps[region][1][(address - region.guest_address) // 2]

    def store(self, address: int, value: int) -> None:
        """A little-endian u16 at an even address, written in one piece; wraps at 65,536."""
        region = self._region(address, 2)
        self._maps[region][1][(address - region.guest_address) // 2] = value & 0xFFFF

    def close(self) -> None:
        for region in self.regions:
            self.remove(region)

    def _region(self, address: int, size: int) -> Region:
        for region in self._maps:
            if region.guest_address <= address and address + size <= region.end:
                return region
        raise ValueError(f"no guest memory at {address:#x}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class DirtyLog:
    """The shared bitmap of live migration: one bit for each page of guest memory, the lowest bit first."""

    def __init__(self, most_address: int) -> None:
        """For guest addresses below `most_address`."""
        self.size: Final = -(-most_address // (8 * PAGE))
        self.fd: Final = os.memfd_create("log", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, self.size)
        self._map = mmap.mmap(self.fd, self.size)

    def pages(self) -> set[int]:
        """Numbers of the pages marked."""
        return {8 * at + bit for at, byte in enumerate(self._map[:]) for bit in range(8) if byte >> bit & 1}

    def clear(self) -> None:
        self._map[:] = bytes(self.size)

    def close(self) -> None:
        self._map.close()
        os.close(self.fd)
