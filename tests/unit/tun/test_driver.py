"""`TunDriver` and `Interface`: what they add to state machine and engine. The rules are in tests/conformance/tun4."""

import errno
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from vbackend.dataplane import NativeCapture
from vbackend.tun.driver import AF_INET, AF_UNSPEC, TunDriver
from vbackend.tun.vocabulary import READY, IfAddr, IfFlag, TunFlag

LOCAL, PEER = IPv4Address("10.7.0.1"), IPv4Address("10.7.0.2")
TO_V4 = b"\x45" + bytes(15) + PEER.packed
TO_V6 = b"\x60" + bytes(23) + IPv6Address("fd00::2").packed


def code_of(call: Callable[..., object], *args: object) -> int | None:
    with pytest.raises(OSError, match=r"\w") as refused:
        call(*args)
    return refused.value.errno


def test_a_unit_shows_all_it_has() -> None:
    with TunDriver() as driver:
        unit = driver.create(2, system="darwin", tunmtu=9000)
        unit.add_address(IfAddr(LOCAL, PEER))
        unit.add_address(IfAddr(IPv6Address("fd00::1")))
        unit.set_broadcast(IPv4Address("10.7.0.255"))
        unit.remove_address(IPv6Address("fd00::1"))
        unit.add_multicast(IPv4Address("224.0.0.1"))
        unit.add_multicast(IPv4Address("224.0.0.2"))
        unit.remove_multicast(IPv4Address("224.0.0.2"))
        file = driver.open(2, header="pi")
        assert (unit.driver, unit.file, unit.name, unit.number) == (driver, file, "tun2", 2)
        assert (unit.flags & READY, unit.mtu, unit.tunmtu) == (READY, 9000, 9000)
        assert (unit.header, unit.system, unit.owner) == ("pi", "darwin", 0)
        assert unit.addresses == (IfAddr(LOCAL, PEER, IPv4Address("10.7.0.255")),)
        assert unit.groups == {IPv4Address("224.0.0.1")}
        assert set(unit.counters()) == {
            *("ipackets", "ibytes", "opackets", "obytes", "ierrors", "oerrors"),
            *("collisions", "drops", "input_drops", "purged"),
        }
        file.close()
        assert unit.file is None


@pytest.mark.parametrize(
    ("packet", "family", "destination", "head"),
    [
        (TO_V4, None, None, bytes([16, 2, 0, 0]) + PEER.packed),
        (TO_V4, None, "10.7.0.9", bytes([16, 2, 0, 0, 10, 7, 0, 9])),
        (TO_V4[:19], None, None, bytes([16, 2, 0, 0, 0, 0, 0, 0])),
        (TO_V6, None, None, bytes([28, 24, 0, 0, 0, 0, 0, 0]) + IPv6Address("fd00::2").packed),
        (TO_V6, AF_INET, LOCAL, bytes([16, 2, 0, 0]) + LOCAL.packed),
    ],
)
def test_family_and_destination_are_the_packets_own_unless_told(
    packet: bytes, family: int | None, destination: IPv4Address | str | None, head: bytes
) -> None:
    with TunDriver() as driver:
        unit = driver.create(0)
        unit.set_address(LOCAL)
        file = driver.open(0, header="sockaddr")
        unit.output(packet, family, destination)
        data = file.read()
        assert (data[: len(head)], data[head[0] :]) == (head, packet)


@pytest.mark.parametrize("packet", [b"", b"\x10"])
def test_without_a_version_there_is_no_family(packet: bytes) -> None:
    with TunDriver() as driver:
        unit = driver.create(0)
        unit.set_address(LOCAL)
        file = driver.open(0)
        assert code_of(unit.output, packet) == errno.EAFNOSUPPORT
        unit.output(packet, AF_UNSPEC)
        assert file.read() == packet


def test_changes_are_told() -> None:
    changes: list[str] = []
    with TunDriver() as driver:
        unit = driver.create(0)
        unit.on_change = lambda: changes.append(unit.name)
        unit.set_peer(PEER)
        assert code_of(unit.set_mtu, 100) == errno.EINVAL
        unit.set_flags(IfFlag.UP)
    assert changes == ["tun0"] * 2


def test_a_capture_can_be_ended() -> None:
    with TunDriver() as driver:
        unit = driver.create(0)
        unit.set_address(LOCAL)
        driver.open(0)
        capture = NativeCapture(1)
        unit.capture(capture, snaplen=10, program=[(0x06, 0, 0, 0xFFFF)])
        unit.output(TO_V4)
        unit.uncapture(capture)
        unit.output(TO_V4)
        assert capture.counts() == [(1, 1, 0)]
        assert code_of_value(unit.capture, capture, 1)


def code_of_value(call: Callable[..., object], *args: object) -> str:
    with pytest.raises(ValueError, match="no interface") as refused:
        call(*args)
    return str(refused.value)


def test_shut_down_closes_and_destroys_all() -> None:
    driver = TunDriver()
    files = [driver.open(number) for number in range(3)]
    driver.destroy(1)
    driver.shut_down()
    driver.shut_down()
    assert (driver.units(), driver.zombies()) == ((), ())
    assert all(file.closed for file in files)


def test_a_failed_open_leaves_the_face_to_who_has_it() -> None:
    with TunDriver() as driver:
        file = driver.open(0, nonblocking=True)
        unit = driver.unit(0)
        assert code_of(driver.open, 0) == errno.EBUSY
        assert (unit.file, unit.flags) == (file, TunFlag.OPEN | TunFlag.INITED | TunFlag.NBIO)


@pytest.mark.parametrize("limits", [{"queue": -1}, {"input_queue": -1}, {"queue": 2**64}])
def test_a_limit_that_is_none_makes_no_unit(limits: Any) -> None:
    with TunDriver() as driver:
        assert code_of(lambda: driver.create(0, **limits)) == errno.EINVAL
        assert driver.units() == ()
        assert driver.create(0, queue=0, input_queue=0).name == "tun0"


def test_a_rate_that_is_none_changes_nothing() -> None:
    with TunDriver() as driver:
        unit = driver.create(0)
        unit.set_rate(8000, 10)
        with pytest.raises(ValueError, match="out of range"):
            unit.set_rate(-1, 0)
        assert (unit.rate, unit.burst) == (8000, 10)
