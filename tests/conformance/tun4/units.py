"""What the tests of this folder share: packets, units that are ready, the errno of a call, and waiting."""

import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, Generic, TypeVar

from vbackend.tun.driver import Interface, TunDriver
from vbackend.tun.file import TunFile
from vbackend.tun.vocabulary import Header, TunFlag

__all__ = [
    "DEADLINE_S",
    "LOCAL",
    "LOCAL6",
    "PEER",
    "PEER6",
    "Running",
    "asleep",
    "counted",
    "ipv4",
    "ipv6",
    "none_of",
    "open_unit",
    "outcome",
    "polls",
    "wait_until",
]

T = TypeVar("T")

DEADLINE_S: Final = 20.0
LOCAL, PEER = IPv4Address("10.7.0.1"), IPv4Address("10.7.0.2")
LOCAL6, PEER6 = IPv6Address("fd07::1"), IPv6Address("fd07::2")


def ipv4(size: int = 28, *, number: int = 0, source: IPv4Address = PEER, to: IPv4Address = LOCAL) -> bytes:
    """An IPv4 packet of `size` bytes, UDP to the discard port, with `number` as its identification."""
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, size, number, 0, 64, 17, 0, source.packed, to.packed)
    total = sum(struct.unpack(">10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    check = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return (head[:10] + struct.pack(">H", check) + head[12:] + _udp(size - 20)).ljust(size, b"\0")


def ipv6(size: int = 48, *, number: int = 0, source: IPv6Address = PEER6, to: IPv6Address = LOCAL6) -> bytes:
    """An IPv6 packet of `size` bytes, UDP to the discard port, with `number` as its flow label."""
    head = struct.pack(">IHBB", 6 << 28 | number, size - 40, 17, 64)
    return (head + source.packed + to.packed + _udp(size - 40)).ljust(size, b"\0")


def _udp(length: int) -> bytes:
    return struct.pack(">HHHH", 9, 9, length, 0)


def open_unit(
    driver: TunDriver,
    number: int = 0,
    *,
    header: Header | None = None,
    nonblocking: bool | None = True,
    **options: Any,
) -> tuple[Interface, TunFile]:
    """A new unit that is READY, and its device face."""
    unit = driver.create(number, **options)
    unit.set_address(LOCAL)
    return unit, driver.open(number, header=header, nonblocking=nonblocking)


def outcome(call: Callable[..., object], *args: object, **named: object) -> int:
    """The errno of a call; 0 when it has none."""
    try:
        call(*args, **named)
    except OSError as error:
        return error.errno or -1
    return 0


def none_of(unit: Interface, *besides: str) -> bool:
    """Whether all counters are 0, but for those that are named."""
    return not any(value for name, value in unit.counters().items() if name not in besides)


def counted(unit: Interface, *names: str) -> tuple[int, ...]:
    """Some counters, in the order asked for."""
    counters = unit.counters()
    return tuple(counters[name] for name in names)


def polls(file: TunFile) -> int:
    """What poll(2) on the descriptor says now, of all that can be asked for."""
    return file.poll(0x1 | 0x2 | 0x4 | 0x40 | 0x100)


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait until `condition()` is true. AssertionError with `what` when it is not within the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S:.0f} s: {what}"
        time.sleep(0.0005)


def asleep(unit: Interface) -> None:
    """Wait until a reader sleeps."""
    wait_until(lambda: unit.flags & TunFlag.RWAIT, f"a reader of {unit.name} sleeps")


class Running(Generic[T]):
    """A call in a thread of its own."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._outcome: Final[Future[T]] = Future()
        self._call: Final = call
        self.thread: Final = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._outcome.set_result(self._call())
        except BaseException as error:  # noqa: BLE001 - it is raised again in `result`
            self._outcome.set_exception(error)

    def result(self) -> T:
        """What the call returned, within the deadline; raises what it raised."""
        return self._outcome.result(DEADLINE_S)
