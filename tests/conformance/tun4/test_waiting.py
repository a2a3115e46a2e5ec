"""A reader that sleeps, and SIGIO: rules R3, R4, T6, D1, I1 and Q1, with real threads and real signals."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.conformance.tun4.rules import rule
from tests.conformance.tun4.units import DEADLINE_S, Running, asleep, ipv4, open_unit, outcome, wait_until
from vbackend.tun.driver import Interface, TunDriver
from vbackend.tun.file import TunFile
from vbackend.tun.vocabulary import PollCode, TunFlag

# What happens while a reader sleeps.
Event = Callable[[TunDriver, Interface, TunFile], object]


# --- sleep ---


@rule("R3", "T6")
def test_r3_an_empty_queue_is_slept_on(driver: TunDriver) -> None:
    unit, file = open_unit(driver, nonblocking=False)
    reader = Running(file.read)
    asleep(unit)
    unit.output(ipv4())
    assert reader.result() == ipv4()
    assert not unit.flags & TunFlag.RWAIT


@rule("R3", "T6")
def test_t6_one_packet_serves_one_of_two_readers(driver: TunDriver) -> None:
    unit, file = open_unit(driver, nonblocking=False)
    readers = [Running(file.read), Running(file.read)]
    asleep(unit)
    unit.output(ipv4(number=0))
    unit.output(ipv4(number=1))
    assert sorted(reader.result() for reader in readers) == [ipv4(number=0), ipv4(number=1)]


def _recreated(driver: TunDriver, _unit: Interface, _file: TunFile) -> None:
    driver.destroy(0)
    driver.create(0)


def _reopened(driver: TunDriver, _unit: Interface, file: TunFile) -> None:
    file.close()
    driver.open(0)


@rule("R4", "D1", "X1")
@pytest.mark.parametrize(
    ("event", "code"),
    [
        pytest.param(lambda driver, _u, _f: driver.destroy(0), errno.ENXIO, id="destroyed"),
        pytest.param(_recreated, errno.ENXIO, id="replaced"),
        pytest.param(lambda _d, _u, file: file.close(), errno.EBADF, id="closed"),
        pytest.param(lambda driver, _u, _f: driver.close(0), errno.EBADF, id="closed by the driver"),
        pytest.param(_reopened, errno.EBADF, id="opened by somebody else"),
        pytest.param(lambda driver, _u, _f: driver.shut_down(), errno.EBADF, id="shut down"),
    ],
)
def test_r4_what_a_sleeper_wakes_up_to(driver: TunDriver, event: Event, code: int) -> None:
    unit, file = open_unit(driver, nonblocking=False)
    reader = Running(lambda: outcome(file.read))
    asleep(unit)
    event(driver, unit, file)
    assert reader.result() == code


@rule("R3")
def test_r3_a_signal_ends_the_sleep(driver: TunDriver) -> None:
    """A thread that is not the main one: Python runs the handler elsewhere, the read ends here."""
    unit, file = open_unit(driver, nonblocking=False)
    handled: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: handled.append(number))
    try:
        reader = Running(lambda: outcome(file.read))
        asleep(unit)
        assert reader.thread.ident is not None
        signal.pthread_kill(reader.thread.ident, signal.SIGUSR1)
        assert reader.result() == errno.EINTR
        wait_until(lambda: handled, "the handler ran")
    finally:
        signal.signal(signal.SIGUSR1, before)
    unit.output(ipv4())
    assert file.read() == ipv4()


@rule("R3")
@pytest.mark.parametrize("raises", [False, True])
def test_r3_a_signal_in_the_main_thread(driver: TunDriver, raises: bool) -> None:
    """The handler runs before the read ends; what it raises is what the read raises."""
    unit, file = open_unit(driver, nonblocking=False)
    handled: list[int] = []

    def handler(number: int, _frame: object) -> None:
        handled.append(number)
        if raises:
            raise LookupError

    def kill() -> None:
        asleep(unit)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        killer = Running(kill)
        with pytest.raises(LookupError if raises else InterruptedError):
            file.read()
        killer.result()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert handled == [signal.SIGUSR1]


# --- SIGIO ---


@pytest.fixture
def sigio() -> Iterator[Callable[[], int | None]]:
    """Block SIGIO and take it by hand: the `si_code` of the one that is pending, None when none is."""

    def taken() -> int | None:
        info = signal.sigtimedwait({signal.SIGIO}, 0)
        return None if info is None else info.si_code

    handler = signal.signal(signal.SIGIO, lambda *_: None)  # whatever else runs here may not die of it
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
    yield taken
    taken()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    signal.signal(signal.SIGIO, handler)


@rule("T6", "D1")
def test_t6_d1_sigio_says_what_for(driver: TunDriver, sigio: Callable[[], int | None]) -> None:
    unit, file = open_unit(driver, queue=1)
    file.ioctl("FIOSETOWN", os.getpid())
    unit.output(ipv4())
    assert sigio() is None
    file.read()
    file.ioctl("FIOASYNC", 1)
    unit.output(ipv4())
    assert sigio() == PollCode.IN
    assert outcome(unit.output, ipv4()) == errno.ENOBUFS
    assert sigio() is None
    driver.destroy(0)
    assert sigio() == PollCode.HUP


@rule("T6", "X1", "X3")
def test_x1_close_forgets_the_owner_but_not_that_it_is_async(
    driver: TunDriver, sigio: Callable[[], int | None]
) -> None:
    unit, file = open_unit(driver)
    file.ioctl("FIOASYNC", 1)
    file.ioctl("FIOSETOWN", os.getpid())
    file.close()
    with driver.open(0) as again:
        unit.output(ipv4())
        assert sigio() is None
        again.ioctl("FIOSETOWN", os.getpid())
        unit.output(ipv4())
        assert sigio() == PollCode.IN
        again.ioctl("FIOASYNC", 0)
        unit.output(ipv4())
        driver.destroy(0)
        assert sigio() is None


@rule("T6")
def test_t6_sigio_runs_a_handler(driver: TunDriver) -> None:
    unit, file = open_unit(driver)
    read: list[bytes] = []
    before = signal.signal(signal.SIGIO, lambda *_: read.extend(file.read_batch()))
    try:
        file.ioctl("FIOSETOWN", os.getpid())
        file.ioctl("FIOASYNC", 1)
        unit.output(ipv4())
        wait_until(lambda: read, "the handler has read")
    finally:
        signal.signal(signal.SIGIO, before)
    assert read == [ipv4()]


@rule("T6")
@pytest.mark.parametrize("request_", ["FIOSETOWN", "TIOCSPGRP"])
def test_t6_another_process_or_its_group_gets_sigio(driver: TunDriver, request_: str) -> None:
    unit, file = open_unit(driver)
    script = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO}); print(flush=True);"
    script += "print(signal.sigwait({signal.SIGIO}))"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, process_group=0
    ) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            file.ioctl(request_, child.pid)
            file.ioctl("FIOASYNC", 1)
            unit.output(ipv4())
            said, _ = child.communicate(timeout=DEADLINE_S)
        finally:
            child.kill()
    assert said.strip() == str(int(signal.SIGIO))


@rule("I1")
@pytest.mark.parametrize("request_", ["FIOSETOWN", "TIOCSPGRP"])
def test_i1_the_owner_must_be_there_and_of_our_session(driver: TunDriver, request_: str) -> None:
    unit, file = open_unit(driver)
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as stranger:
        try:
            assert outcome(file.ioctl, request_, stranger.pid) == errno.EPERM
        finally:
            stranger.kill()
    assert outcome(file.ioctl, request_, stranger.pid) == errno.ESRCH
    assert outcome(file.ioctl, request_, 1 << 40) == errno.ESRCH
    assert unit.owner == 0


# --- rate ---


@rule("Q1")
def test_q1_a_sleeper_is_woken_when_a_packet_may_leave(driver: TunDriver) -> None:
    unit, file = open_unit(driver, nonblocking=False)
    unit.set_rate(80_000, 100)  # 10 bytes a ms: the second packet waits for 90 ms
    unit.output(ipv4(1000))
    unit.output(ipv4(number=1))
    assert len(file.read()) == 1000
    assert (unit.queue_len, file.ioctl("FIONREAD"), file.kevent(0)) == (1, 28, (False, 0))
    assert file.read_batch() == []
    assert file.read() == ipv4(number=1)


@rule("Q1")
def test_q1_a_reader_that_slept_before_is_woken_too(driver: TunDriver) -> None:
    unit, file = open_unit(driver, nonblocking=False)
    unit.set_rate(80_000, 100)
    unit.output(ipv4(1000))
    file.read()
    reader = Running(file.read)
    asleep(unit)
    unit.output(ipv4(number=1))
    assert reader.result() == ipv4(number=1)


@rule("Q1")
def test_q1_sigio_comes_when_a_packet_may_leave(driver: TunDriver, sigio: Callable[[], int | None]) -> None:
    unit, file = open_unit(driver)
    unit.set_rate(80_000, 100)
    unit.output(ipv4(1000))
    file.read()
    file.ioctl("FIOSETOWN", os.getpid())
    file.ioctl("FIOASYNC", 1)
    unit.output(ipv4())
    assert sigio() is None
    assert outcome(file.read) == errno.EWOULDBLOCK
    wait_until(lambda: sigio() is not None, "SIGIO")  # from the clock's thread: without POLL_IN
    assert file.read() == ipv4()
