"""Memory regions as a front-end may and may not give them, and what a ring still lacks."""

import pytest

from vbackend.errors import PeerError
from vbackend.vhost_user.events import Region, RingAddresses
from vbackend.vhost_user.state import MOST_SLOTS, Memory, Ring

PAGE = 4096
ONE = Region(0x10000, 16 * PAGE, 0x7F0000000000, 0)

GOOD = [
    [],
    [ONE],
    [ONE, Region(ONE.guest_address + ONE.size, PAGE, 0x1000, 0)],  # one right behind the other
    [ONE, Region(ONE.guest_address - PAGE, PAGE, 0x1000, 0)],
    [ONE, Region(1 << 40, PAGE, ONE.user_address, 0)],  # the same memory at two guest addresses
    [Region(2**64 - PAGE, PAGE, 2**64 - PAGE, 0)],
]
BAD = [
    ([Region(0, 0, 0, 0)], "0x0 bytes at guest address 0x0 is empty"),
    ([Region(2**64 - PAGE, PAGE + 1, 0, 0)], "goes past 2**64, from guest address 0xfffffffffffff000"),
    ([Region(0, PAGE, 2**64 - 1, 0)], "goes past 2**64, from user address"),
    ([Region(0, PAGE, 0, 2**64 - 1)], "goes past 2**64, from offset"),
    ([ONE, ONE], "overlaps 0x10000 bytes at guest address 0x10000"),
    ([ONE, Region(0, 1 << 30, 0, 0)], "overlaps"),
    ([ONE, Region(ONE.guest_address + PAGE, PAGE, 0, 0)], "overlaps"),
    ([ONE, Region(ONE.guest_address + ONE.size - 1, PAGE, 0, 0)], "overlaps"),
    ([Region(i * PAGE, PAGE, 0, 0) for i in range(33)], "there are 32 regions already"),
]


@pytest.mark.parametrize("regions", GOOD)
def test_good_tables(regions: list[Region]) -> None:
    memory = Memory()
    memory.replace("SET_MEM_TABLE", regions)
    assert memory.regions == regions
    assert memory.size == sum(region.size for region in regions)


@pytest.mark.parametrize(("regions", "words"), BAD)
def test_bad_tables_change_nothing(regions: list[Region], words: str) -> None:
    memory = Memory([ONE])
    with pytest.raises(PeerError) as caught:
        memory.replace("SET_MEM_TABLE", regions)
    assert str(caught.value).startswith("SET_MEM_TABLE: ")
    assert words in str(caught.value)
    assert memory.regions == [ONE]


def test_slots_end() -> None:
    memory = Memory()
    for number in range(MOST_SLOTS):
        memory.add("ADD_MEM_REG", Region(number * PAGE, PAGE, 0, 0))
    with pytest.raises(PeerError, match="ADD_MEM_REG: there are 32 regions"):
        memory.add("ADD_MEM_REG", Region(1 << 40, PAGE, 0, 0))


def test_a_region_is_found_by_all_but_its_offset() -> None:
    memory = Memory([ONE])
    assert memory.find(Region(ONE.guest_address, ONE.size, ONE.user_address, 99)) is ONE
    for other in (
        Region(ONE.guest_address + 1, ONE.size, ONE.user_address, 0),
        Region(ONE.guest_address, ONE.size + 1, ONE.user_address, 0),
        Region(ONE.guest_address, ONE.size, ONE.user_address + 1, 0),
    ):
        assert memory.find(other) is None


def test_what_a_ring_lacks() -> None:
    memory, ring = Memory(), Ring()
    at = ONE.user_address
    assert ring.lacks(memory) == "it has no kick"
    ring.kicked = True
    assert ring.lacks(memory) == "its size is not set"
    ring.size = 256
    assert ring.lacks(memory) == "its addresses are not set"
    ring.addresses = RingAddresses(0, 0, at, at + ONE.size - 1, at + ONE.size, 0)
    assert ring.lacks(memory) == "0x7f0000000000 is in no memory region"
    memory.add("ADD_MEM_REG", ONE)
    assert ring.lacks(memory) == "0x7f0000010000 is in no memory region"
    ring.addresses = RingAddresses(0, 0, at, at + ONE.size - 1, at + PAGE, 0)
    assert ring.lacks(memory) == ""


def test_only_a_running_ring_needs_a_new_kick() -> None:
    ring = Ring(kicked=True)
    ring.interrupt()
    assert ring.kicked
    ring.running = True
    ring.interrupt()
    assert not ring.kicked
