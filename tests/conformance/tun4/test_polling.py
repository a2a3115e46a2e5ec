"""select, poll, epoll, asyncio and kevent on an open device face: rules P1 and K1, and Q1 for who polls."""

import asyncio
import errno
import select
from collections.abc import Callable
from contextlib import closing
from typing import Final

import pytest

from tests.conformance.tun4.rules import rule
from tests.conformance.tun4.units import (
    DEADLINE_S,
    LOCAL,
    Running,
    ipv4,
    ipv6,
    open_unit,
    outcome,
    polls,
    wait_until,
)
from vbackend.tun.driver import Interface, TunDriver
from vbackend.tun.file import EVFILT_READ, EVFILT_WRITE, TunFile

IN: Final = select.POLLIN | select.POLLRDNORM
OUT: Final = select.POLLOUT | select.POLLWRNORM

Ready = tuple[bool, bool]  # may be read, may be written


# --- every state, asked in every way ---


def by_select(fd: int) -> Ready:
    readable, writable, strange = select.select([fd], [fd], [fd], 0)
    assert not strange
    return bool(readable), bool(writable)


def by_poll(fd: int) -> Ready:
    asked = select.poll()
    asked.register(fd, IN | OUT | select.POLLPRI)
    found = dict(asked.poll(0)).get(fd, 0)
    assert found in (0, IN, OUT, IN | OUT)
    return bool(found & IN), bool(found & OUT)


def by_epoll(fd: int) -> Ready:
    with closing(select.epoll()) as asked:
        asked.register(fd, select.EPOLLIN | select.EPOLLOUT | select.EPOLLPRI)
        found = dict(asked.poll(0)).get(fd, 0)
    assert not found & (select.EPOLLHUP | select.EPOLLERR)
    return bool(found & select.EPOLLIN), bool(found & select.EPOLLOUT)


def by_asyncio(fd: int) -> Ready:
    async def look() -> Ready:
        loop, seen = asyncio.get_running_loop(), set[str]()
        loop.add_reader(fd, seen.add, "in")
        loop.add_writer(fd, seen.add, "out")
        for _ in range(3):
            await asyncio.sleep(0)
        loop.remove_reader(fd)
        loop.remove_writer(fd)
        return "in" in seen, "out" in seen

    return asyncio.run(look())


@rule("P1")
@pytest.mark.parametrize("ask", [by_select, by_poll, by_epoll, by_asyncio])
def test_p1_every_state(driver: TunDriver, ask: Callable[[int], Ready]) -> None:
    unit, file = open_unit(driver)
    fd = file.fileno()

    def now() -> Ready:
        assert file.fileno() == fd, "the descriptor stays"
        return ask(fd)

    idle, readable, gone = (False, True), (True, True), (False, False)
    assert now() == idle
    for _ in range(2):
        unit.output(ipv4())
        assert now() == readable
    file.read()
    assert now() == readable
    file.read()
    assert now() == idle
    file.write(ipv4())
    assert now() == idle
    unit.output(ipv4())
    unit.set_flags(0)
    assert now() == idle, "purged by going down"
    unit.output(ipv4())
    driver.destroy(0)
    assert now() == gone
    driver.create(0)
    assert now() == idle, "revived"
    unit.output(ipv4())
    assert now() == readable
    file.read_batch()
    assert now() == idle
    file.close()
    assert outcome(file.fileno) == errno.EBADF


@rule("P1")
def test_p1_a_full_input_queue_is_writable(driver: TunDriver) -> None:
    _, file = open_unit(driver, input_queue=0)
    assert outcome(file.write, ipv4()) == errno.ENOBUFS
    assert polls(file) == OUT


@rule("P1")
@pytest.mark.parametrize("events", [0, select.POLLIN, select.POLLRDNORM, select.POLLOUT, select.POLLWRNORM])
def test_p1_only_what_is_asked_for(driver: TunDriver, events: int) -> None:
    unit, file = open_unit(driver)
    assert file.poll(events) == events & OUT
    unit.output(ipv4())
    assert file.poll(events) == events


@rule("P1")
def test_p1_a_descriptor_that_is_made_late_says_what_is_so(driver: TunDriver) -> None:
    unit, file = open_unit(driver)
    unit.output(ipv4())
    assert polls(file) == IN | OUT
    file.close()
    with driver.open(0) as again:
        driver.destroy(0)
        assert polls(again) == 0


@rule("P1")
def test_p1_without_an_address_it_polls_all_the_same(driver: TunDriver) -> None:
    with driver.open(0) as file:
        assert polls(file) == OUT


# --- pollers are woken ---


def _read_interest_in(fd: int) -> select.poll:
    asked = select.poll()
    asked.register(fd, select.POLLIN)
    return asked


@rule("P1", "T6", "X1")
@pytest.mark.parametrize("event", ["output", "close", "revived and output"])
def test_p1_a_thread_that_polls_is_woken(driver: TunDriver, event: str) -> None:
    unit, file = open_unit(driver)
    asked = _read_interest_in(file.fileno())
    begun: list[bool] = []

    def poll() -> list[tuple[int, int]]:
        begun.append(True)
        return asked.poll(DEADLINE_S * 1000)

    poller = Running(poll)
    wait_until(lambda: begun, "the poller polls")
    if event == "close":
        file.close()
    elif event == "output":
        unit.output(ipv4())
    else:
        driver.destroy(0)
        driver.create(0)
        unit.output(ipv4())
    assert poller.result()


@rule("P1", "Q1")
def test_q1_who_polls_is_told_when_a_packet_may_leave(driver: TunDriver) -> None:
    unit, file = open_unit(driver)
    unit.set_rate(80_000, 100)
    unit.output(ipv4(1000))
    unit.output(ipv4(number=1))
    file.read()
    assert polls(file) == OUT
    assert file.ioctl("FIONREAD") == 28
    assert _read_interest_in(file.fileno()).poll(DEADLINE_S * 1000)
    assert file.read() == ipv4(number=1)


# --- kevent ---


@rule("K1")
def test_k1_kevent(driver: TunDriver) -> None:
    unit, file = open_unit(driver, header="null")
    assert (file.kevent(EVFILT_READ), file.kevent(EVFILT_WRITE)) == ((False, 0), (True, 0))
    unit.output(ipv4(100))
    unit.output(ipv6(200))
    assert file.kevent(EVFILT_READ) == (True, 104)
    file.read()
    assert file.kevent(EVFILT_READ) == (True, 204)
    file.read()
    assert file.kevent(EVFILT_READ) == (False, 0)
    assert {outcome(file.kevent, filter_) for filter_ in (-1, 2, 3, 6)} == {errno.EINVAL}
    driver.destroy(0)
    assert (file.kevent(EVFILT_READ), file.kevent(EVFILT_WRITE)) == ((False, 0), (False, 0))


# --- tasks ---


async def _begun(task: "asyncio.Task[object]") -> None:
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()


Event = Callable[[TunDriver, Interface, TunFile], object]


def _recreated(driver: TunDriver, _unit: Interface, _file: TunFile) -> None:
    driver.destroy(0)
    driver.create(0).set_address(LOCAL)


@rule("R3", "R4", "T6")
@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize(
    ("event", "code"),
    [
        pytest.param(lambda _d, unit, _f: unit.output(ipv4()), 0, id="output"),
        pytest.param(lambda driver, _u, _f: driver.destroy(0), errno.ENXIO, id="destroyed"),
        pytest.param(_recreated, errno.ENXIO, id="replaced"),
        pytest.param(lambda _d, _u, file: file.close(), errno.EBADF, id="closed"),
        pytest.param(lambda driver, _u, _f: driver.close(0), errno.EBADF, id="closed by the driver"),
    ],
)
async def test_r3_r4_tasks_that_read_are_woken(
    driver: TunDriver, event: Event, code: int, elsewhere: bool
) -> None:
    """By the same as threads, in their own thread or from another one."""
    unit, file = open_unit(driver, nonblocking=False)
    task: asyncio.Task[object] = asyncio.create_task(file.aread())
    await _begun(task)
    if elsewhere:
        Running(lambda: event(driver, unit, file)).result()
    else:
        event(driver, unit, file)
    async with asyncio.timeout(DEADLINE_S):
        if code:
            with pytest.raises(OSError, match=r".") as refused:
                await task
            assert refused.value.errno == code
        else:
            assert await task == ipv4()


async def test_two_tasks_share_what_comes(driver: TunDriver) -> None:
    unit, file = open_unit(driver)
    tasks = [asyncio.create_task(file.aread(20)) for _ in range(2)]
    await _begun(tasks[0])
    unit.output(ipv4(number=0))
    unit.output(ipv4(number=1))
    async with asyncio.timeout(DEADLINE_S):
        assert sorted(await asyncio.gather(*tasks)) == [ipv4(number=0)[:20], ipv4(number=1)[:20]]


async def test_a_batch_waits_for_the_first_packet(driver: TunDriver) -> None:
    unit, file = open_unit(driver)
    task = asyncio.create_task(file.aread_batch(2))
    await _begun(task)
    for number in range(3):
        unit.output(ipv4(number=number))
    async with asyncio.timeout(DEADLINE_S):
        assert await task == [ipv4(number=0), ipv4(number=1)]
        assert await file.aread_batch() == [ipv4(number=2)]
        assert await file.awrite(ipv4()) == 28


async def test_a_task_that_is_cancelled_leaves_nothing(driver: TunDriver) -> None:
    unit, file = open_unit(driver)
    task: asyncio.Task[object] = asyncio.create_task(file.aread())
    await _begun(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    unit.output(ipv4())
    assert await file.aread() == ipv4()
    driver.destroy(0)


@rule("Q1")
async def test_q1_tasks_are_woken_when_a_packet_may_leave(driver: TunDriver) -> None:
    unit, file = open_unit(driver)
    unit.set_rate(80_000, 100)
    unit.output(ipv4(1000))
    unit.output(ipv4(number=1))
    async with asyncio.timeout(DEADLINE_S):
        assert len(await file.aread()) == 1000
        assert await file.aread() == ipv4(number=1)
