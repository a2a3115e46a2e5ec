"""`TunFile` as a file: names, buffers, what makes it one of Python's. The rules are tests/conformance/tun4's."""

import asyncio
import errno
import inspect
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from tests.support.fds import open_fds
from vbackend.tun.driver import Interface, TunDriver
from vbackend.tun.file import EVFILT_READ, EVFILT_WRITE, Kevent, TunFile
from vbackend.tun.file import open as open_file
from vbackend.tun.vocabulary import Ioctl

PACKET = b"\x45" + bytes(19)


@pytest.fixture
def unit() -> Iterator[Interface]:
    with TunDriver() as driver:
        unit = driver.create(0)
        unit.set_address(IPv4Address("10.7.0.1"))
        yield unit


def test_open_by_unit(unit: Interface) -> None:
    with open_file(unit, header="null", nonblocking=True) as file:
        assert (file.name, file.closed, unit.header) == ("tun0", False, "null")
        with pytest.raises(BlockingIOError):
            file.read()
    assert file.closed
    with open_file(unit):
        assert unit.header == "null"


def test_it_is_a_raw_file(unit: Interface) -> None:
    with open_file(unit) as file:
        assert (file.readable(), file.writable(), file.seekable()) == (True, True, False)
        file.flush()
        assert file.fileno() == file.fileno() > 2


def test_requests_by_name_number_and_word(unit: Interface) -> None:
    with open_file(unit) as file:
        for request in ("TUNSDEBUG", Ioctl.TUNSDEBUG, int(Ioctl.TUNSDEBUG)):
            file.ioctl(request, 3)
            assert file.ioctl("TUNGDEBUG") == 3
            file.ioctl(request, 0)
        with pytest.raises(OSError, match="ioctl") as refused:
            file.ioctl("TUNSNOTHING")
        assert refused.value.errno == errno.ENOTTY


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_bytes_may_be_written(unit: Interface, kind: type[bytes | bytearray | memoryview]) -> None:
    with open_file(unit) as file:
        assert file.write(kind(PACKET)) == len(PACKET)
        assert file.writev([kind(PACKET[:1]), kind(PACKET[1:])]) == len(PACKET)
    assert [unit.input(), unit.input()] == [(4, PACKET)] * 2


def test_a_batch_is_what_is_here(unit: Interface) -> None:
    with open_file(unit) as file:
        assert file.read_batch() == []
        for _ in range(3):
            unit.output(PACKET)
        assert file.read_batch(2) == [PACKET] * 2
        assert file.kevent(EVFILT_READ) == Kevent(True, 20)
        assert file.read_batch(0) == []
        assert file.read_batch() == [PACKET]
        assert file.kevent(EVFILT_WRITE) == Kevent(True, 0)


def test_every_call_of_a_closed_file_is_ebadf(unit: Interface) -> None:
    file = open_file(unit)
    file.close()
    calls = {
        "read": (),
        "readv": ([bytearray(1)],),
        "readinto": (bytearray(1),),
        "read_batch": (),
        "write": (PACKET,),
        "writev": ([PACKET],),
        "ioctl": ("FIONREAD",),
        "poll": (1,),
        "kevent": (0,),
        "fileno": (),
    }
    for name, args in calls.items():
        with pytest.raises(OSError, match=r"\w") as refused:
            getattr(file, name)(*args)
        assert refused.value.errno == errno.EBADF, name


async def test_every_coroutine_of_a_closed_file_is_ebadf(unit: Interface) -> None:
    file = open_file(unit)
    file.close()
    coroutines = [
        name for name, _ in inspect.getmembers(TunFile, inspect.iscoroutinefunction) if name[0] != "_"
    ]
    assert coroutines == ["aread", "aread_batch", "awrite"]
    for name in coroutines:
        with pytest.raises(OSError, match=r"\w") as refused:
            await getattr(file, name)(*([PACKET] if name == "awrite" else []))
        assert refused.value.errno == errno.EBADF, name


def test_a_task_whose_loop_was_closed_keeps_nobody_from_being_woken(unit: Interface) -> None:
    file = open_file(unit)
    before = open_fds()
    abandoned, other = asyncio.new_event_loop(), asyncio.new_event_loop()
    left, reading = file.aread(), file.aread()
    task = abandoned.create_task(left)
    abandoned.run_until_complete(asyncio.sleep(0))
    abandoned.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # as asyncio.gather() does
    waiting = other.create_task(reading)
    other.run_until_complete(asyncio.sleep(0))
    unit.driver.destroy(unit.number)
    assert other.run_until_complete(asyncio.wait([waiting], timeout=10))[0], "it was woken"
    assert isinstance(error := waiting.exception(), OSError)
    assert error.errno == errno.ENXIO
    other.close()
    left.close()  # as the garbage collector does
    file.close()
    assert open_fds() == before


def test_a_request_of_a_file_that_is_closed_meanwhile_is_not_the_next_ones(
    unit: Interface, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread may close it, and open the unit again, when the request is half way."""
    file, ioctl = open_file(unit), unit.driver.ioctl

    def later(*args: int) -> int:
        file.close()
        open_file(unit)
        return ioctl(*args)

    monkeypatch.setattr(unit.driver, "ioctl", later)
    with pytest.raises(OSError, match="the file is closed") as refused:
        file.ioctl("TUNSLMODE", 1)
    assert (refused.value.errno, unit.header) == (errno.EBADF, "none")
