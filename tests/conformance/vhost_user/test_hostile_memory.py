"""A front-end that lies about its memory, takes it away while rings run in it, or cuts its files short."""

import dataclasses
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from tests.conformance.vhost_user.lab import BAD, Lab, X, exchange
from vbackend.testing.vhost.frontend import FrontEnd, RefusedError
from vbackend.testing.vhost.memory import PAGE, DirtyLog, GuestMemory, Region
from vbackend.testing.vhost.nic import NO_FEATURES, Nic, Pair, make_ring
from vbackend.testing.vhost.wire import (
    BASIC_PROTOCOL,
    Feature,
    Protocol,
    Request,
    memory_region,
    memory_table,
)

SLOTS = BASIC_PROTOCOL | Protocol.CONFIGURE_MEM_SLOTS
STEP = 1 << 20
F_SEAL_WRITE = 0x8  # of linux/fcntl.h; Python has it from 3.12 on
LAYOUTS = pytest.mark.parametrize("layout", [NO_FEATURES, Feature.RING_PACKED], ids=["split", "packed"])


@contextmanager
def running(
    lab: Lab, features: Feature = NO_FEATURES, protocol: Protocol = BASIC_PROTOCOL
) -> Iterator[tuple[FrontEnd, Pair]]:
    """A pair whose rings are in the first region and whose buffers are in the second, with frames going both ways."""
    memory = GuestMemory([(0, STEP), (STEP, STEP)])
    with lab.undisturbed(), lab.front("bad", features, protocol, memory=memory) as front:
        pair = Pair(front, 256)
        memory.allocate(STEP - memory.allocate(1) - 1)
        pair.start()
        pair.send(bytes(60))
        pair.flush()
        yield front, pair


def refuse(act: Callable[[], object]) -> None:
    """The request is refused: by an acknowledgement if there is one, and the session is over."""
    with pytest.raises((RefusedError, EOFError)):
        act()


# What a table says


def change(**fields: int) -> Callable[[Region], Region]:
    return lambda region: dataclasses.replace(region, **fields)


@pytest.mark.parametrize(
    "lie",
    [
        change(size=0),
        change(size=2 * STEP),
        change(size=(1 << 64) - 1),
        change(size=1 << 63),
        change(offset=PAGE),
        change(offset=1 << 62),
        change(offset=(1 << 64) - PAGE),
        change(guest_address=(1 << 64) - PAGE),
        change(user_address=(1 << 64) - PAGE),
    ],
)
@pytest.mark.parametrize("slots", [False, True], ids=["table", "slots"])
def test_regions_that_cannot_be(lab: Lab, lie: Callable[[Region], Region], slots: bool) -> None:
    with lab.undisturbed(), lab.front("bad", protocol=SLOTS) as front:
        region = lie(front.memory.add(64 * STEP, STEP))
        refuse(lambda: front.add_memory(region) if slots else front.set_memory([region]))
        front.expect_end()
        lab.wait_end("bad", "MEM")


def test_regions_over_each_other(lab: Lab) -> None:
    for first, second in (
        (change(), change()),
        (change(), change(user_address=1 << 40)),
        (change(), change(guest_address=1 << 40)),
        (change(), change(guest_address=PAGE)),
    ):
        with lab.undisturbed(), lab.front("bad", protocol=SLOTS) as front:
            region = front.memory.add(64 * STEP, STEP)
            refuse(lambda: front.set_memory([first(region), second(region)]))  # noqa: B023 - called at once
            front.expect_end()
            lab.wait_end("bad", "overlap")


@pytest.mark.parametrize(("count", "regions"), [(0xFFFF_FFFF, 1), (9, 1), (2, 1), (0, 1), (9, 9)])
def test_tables_of_wrong_length(lab: Lab, count: int, regions: int) -> None:
    with lab.undisturbed(), lab.front("bad") as front:
        region = front.memory.regions[0]
        payload = memory_table([region.wire] * regions, count=count)
        refuse(lambda: front.tell(Request.SET_MEM_TABLE, payload, [region.fd] * regions))
        front.expect_end()
        lab.wait_end("bad", "SET_MEM_TABLE")


@pytest.mark.parametrize("fds", [0, 2, 8, 253])
def test_a_wrong_number_of_files(lab: Lab, fds: int) -> None:
    with lab.undisturbed(), lab.front("bad") as front:
        region = front.memory.regions[0]
        refuse(lambda: front.tell(Request.SET_MEM_TABLE, memory_table([region.wire]), [region.fd] * fds))
        front.expect_end()
        lab.wait_end("bad", "SET_MEM_TABLE")


def test_more_slots_than_there_are(lab: Lab) -> None:
    with lab.undisturbed(), lab.front("bad", protocol=SLOTS) as front:
        slots = front.ask(Request.GET_MAX_MEM_SLOTS).u64()
        for n in range(1, slots):
            front.add_memory(front.memory.add((64 + n) * STEP, PAGE))
        refuse(lambda: front.add_memory(front.memory.add(STEP * (65 + slots), PAGE)))
        front.expect_end()
        lab.wait_end("bad", "ADD_MEM_REG")


def odd_files() -> Sequence[tuple[str, Callable[[], int]]]:
    def read_only() -> int:
        fd = os.memfd_create("read-only")
        os.ftruncate(fd, STEP)
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
        os.close(fd)
        return again

    def sealed() -> int:
        fd = os.memfd_create("sealed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, STEP)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, F_SEAL_WRITE)
        return fd

    def pipe() -> int:
        reader, writer = os.pipe()
        os.close(writer)
        return reader

    return [
        ("read-only", read_only),
        ("sealed", sealed),
        ("pipe", pipe),
        ("eventfd", lambda: os.eventfd(0)),
        ("directory", lambda: os.open("/", os.O_RDONLY)),
        ("zero", lambda: os.open("/dev/zero", os.O_RDWR)),
        ("null", lambda: os.open("/dev/null", os.O_RDWR)),
        ("empty", lambda: os.memfd_create("empty")),
    ]


@pytest.mark.parametrize("make", [make for _, make in odd_files()], ids=[name for name, _ in odd_files()])
def test_files_that_are_no_memory(lab: Lab, make: Callable[[], int]) -> None:
    with lab.undisturbed(), lab.front("bad") as front:
        fd = make()
        try:
            refuse(lambda: front.set_memory([Region(0, PAGE, 1 << 40, 0, fd)]))
        finally:
            os.close(fd)
        front.expect_end()
        lab.wait_end("bad", "SET_MEM_TABLE")


def test_a_sparse_file_of_terabytes(lab: Lab) -> None:
    """Only what is touched costs anything."""
    with lab.nic("x") as x, lab.front("bad") as front:
        region = front.memory.add(1 << 40, PAGE)
        os.ftruncate(region.fd, 1 << 42)
        front.set_memory([*front.memory.regions[:1], dataclasses.replace(region, size=1 << 42)])
        pair = Pair(front)
        pair.start()
        exchange(pair, BAD, x.pairs[0], X)
    lab.settle()


# What is taken away


@LAYOUTS
@pytest.mark.parametrize("slots", [False, True], ids=["table", "slots"])
def test_the_memory_of_running_rings_is_taken_away(lab: Lab, layout: Feature, slots: bool) -> None:
    """The rings stop; they go on when it is back and they are kicked again."""
    with running(lab, layout, SLOTS) as (front, pair):
        rings, buffers = front.memory.regions
        if slots:
            front.remove_memory(rings)
        else:
            front.set_memory([buffers])
        assert not any(lab.ring("bad", queue.index).running for queue in front.queues)
        os.eventfd_write(pair.tx.kick, 1)
        front.set_memory()
        for queue in front.queues:
            front.set_kick(queue)
        pair.send(bytes(60))
        pair.flush()
        pair.recv()


@LAYOUTS
def test_the_memory_of_buffers_is_taken_away(lab: Lab, layout: Feature) -> None:
    """Then the addresses in the rings are lies."""
    with running(lab, layout) as (front, pair):
        front.set_memory(front.memory.regions[:1])
        pair.queue(bytes(60))
        pair.tx.ring.publish()
        os.eventfd_write(pair.tx.kick, 1)
        for queue in front.queues:
            lab.wait_problem("bad", queue.index, "outside guest memory")


@LAYOUTS
def test_tables_are_swapped_under_traffic(lab: Lab, layout: Feature) -> None:
    """Each change is one moment between two turns: nothing is lost, nothing stops."""
    with lab.nic("x") as x, running_nic(lab, layout) as nic:
        pair, front = nic.pairs[0], nic.front
        for turn in range(100):
            other = front.memory.add((100 + turn) * STEP, PAGE)
            front.set_memory()
            exchange(pair, BAD, x.pairs[0], X, (60, 1500))
            front.memory.remove(other)
            front.set_memory()
        assert not any(lab.ring("bad", queue.index).problem for queue in front.queues)
    lab.settle()


@contextmanager
def running_nic(lab: Lab, features: Feature) -> Iterator[Nic]:
    with lab.nic("bad", features=features) as nic:
        yield nic


# What is cut short


@LAYOUTS
@pytest.mark.parametrize("what", [0, 1], ids=["rings", "buffers"])
@pytest.mark.parametrize("length", [0, PAGE], ids=["all", "all-but-a-page"])
def test_a_file_is_cut_under_its_mapping(lab: Lab, layout: Feature, what: int, length: int) -> None:
    """The kernel answers an access with SIGBUS. The session is over, the process goes on."""
    with running(lab, layout) as (front, pair):
        pair.queue(bytes(1000))
        pair.tx.ring.publish()
        os.ftruncate(front.memory.regions[what].fd, length)
        os.eventfd_write(pair.tx.kick, 1)
        front.expect_end()
        lab.wait_end("bad", "cut short")


def test_a_file_is_cut_and_nobody_looks(lab: Lab) -> None:
    """Rings that are not running touch nothing; the end is orderly."""
    with lab.undisturbed(), lab.front("bad") as front:
        front.add(make_ring(front.memory, 64, front.features))
        os.ftruncate(front.memory.regions[0].fd, 0)
        front.barrier()


def test_a_log_is_cut_under_its_mapping(lab: Lab) -> None:
    log = DirtyLog(2 * STEP)
    try:
        protocol = BASIC_PROTOCOL | Protocol.LOG_SHMFD
        with running(lab, NO_FEATURES, protocol) as (front, pair):
            front.set_log(log)
            front.set_features(front.features | Feature.LOG_ALL)
            os.ftruncate(log.fd, 0)
            pair.queue(bytes(60))
            pair.tx.ring.publish()
            os.eventfd_write(pair.tx.kick, 1)
            front.expect_end()
            lab.wait_end("bad", "cut short")
    finally:
        log.close()


@pytest.mark.parametrize(("size", "offset"), [(0, 0), (1 << 40, 0), (PAGE, 1 << 40), ((1 << 64) - 1, 2)])
def test_logs_that_cannot_be(lab: Lab, size: int, offset: int) -> None:
    log = DirtyLog(8 * PAGE * PAGE)
    try:
        with lab.undisturbed(), lab.front("bad", protocol=BASIC_PROTOCOL | Protocol.LOG_SHMFD) as front:
            payload = size.to_bytes(8, "little") + offset.to_bytes(8, "little")
            front.send(Request.SET_LOG_BASE, payload, [log.fd])
            front.expect_end()
            lab.wait_end("bad", "SET_LOG_BASE")
    finally:
        log.close()


def test_a_log_that_is_too_short_is_written_as_far_as_it_goes(lab: Lab) -> None:
    log = DirtyLog(8 * PAGE)  # one byte: the first eight pages
    try:
        with running(lab, NO_FEATURES, BASIC_PROTOCOL | Protocol.LOG_SHMFD) as (front, pair):
            front.set_log(log)
            front.set_features(front.features | Feature.LOG_ALL)
            pair.send(bytes(60))
            pair.flush()
            pair.recv()
            assert lab.port("bad").session is not None
    finally:
        log.close()


def test_a_region_that_is_not_there_is_removed(lab: Lab) -> None:
    """QEMU 7.2 removes each once for every pair: no error."""
    with lab.undisturbed(), lab.front("bad", protocol=SLOTS) as front:
        region = dataclasses.replace(front.memory.regions[0], guest_address=1 << 40)
        front.tell(Request.REM_MEM_REG, memory_region(region.wire))
        front.barrier()
