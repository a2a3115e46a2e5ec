"""vbackend/testing/vhost/memory.py: what is written is in the files that a back-end maps."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from vbackend.testing.vhost.memory import PAGE, DirtyLog, GuestMemory, fence

SECOND = 2 * PAGE
BEHIND_A_HOLE = 1 << 32


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    """Two regions side by side and one behind a hole."""
    with GuestMemory([(0, SECOND), (SECOND, PAGE), (BEHIND_A_HOLE, PAGE)]) as made:
        yield made


def test_bytes_cross_adjacent_regions_into_their_files(memory: GuestMemory) -> None:
    memory.write(SECOND - 2, b"abcd")
    first, second, _ = memory.regions
    assert os.pread(first.fd, 2, SECOND - 2) == b"ab"
    assert os.pread(second.fd, 2, 0) == b"cd"
    assert memory.read(SECOND - 2, 4) == b"abcd"


@pytest.mark.parametrize("address", [SECOND + PAGE - 1, BEHIND_A_HOLE + PAGE - 1, BEHIND_A_HOLE - 1])
def test_holes_are_refused(memory: GuestMemory, address: int) -> None:
    with pytest.raises(ValueError, match="no guest memory at"):
        memory.read(address, 2)
    with pytest.raises(ValueError, match="no guest memory at"):
        memory.write(address, b"ab")


def test_words_are_little_endian_and_wrap(memory: GuestMemory) -> None:
    memory.store(BEHIND_A_HOLE + 6, 0x1_FFFE)
    fence()
    assert memory.load(BEHIND_A_HOLE + 6) == 0xFFFE
    assert memory.read(BEHIND_A_HOLE + 6, 2) == b"\xfe\xff"


def test_a_region_at_an_offset_of_its_file(memory: GuestMemory) -> None:
    region = memory.add(16 * PAGE, PAGE, offset=PAGE)
    memory.write(16 * PAGE, b"x")
    assert os.pread(region.fd, 1, PAGE) == b"x"
    assert region.wire == (16 * PAGE, PAGE, memory.user_address(16 * PAGE), PAGE)
    memory.remove(region)
    with pytest.raises(ValueError, match="no guest memory"):
        memory.read(16 * PAGE, 1)


def test_nothing_is_allocated_twice(memory: GuestMemory) -> None:
    assert [memory.allocate(10, align=16) for _ in range(2)] == [0, 16]
    assert memory.allocate(SECOND - 26) == 26
    assert memory.allocate(1) == SECOND
    assert memory.allocate(1, region=memory.regions[2]) == BEHIND_A_HOLE
    with pytest.raises(MemoryError):
        memory.allocate(PAGE)


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_everything_is_closed() -> None:
    before = open_descriptors()
    with GuestMemory():
        pass
    with pytest.raises(ValueError, match="empty file"):
        GuestMemory([(0, PAGE), (PAGE, 0)])
    assert open_descriptors() == before


def test_a_log_tells_pages() -> None:
    log = DirtyLog(20 * PAGE)
    try:
        assert log.size == 3
        os.pwrite(log.fd, b"\x01\x80\x02", 0)
        assert log.pages() == {0, 15, 17}
        log.clear()
        assert log.pages() == set()
    finally:
        log.close()
