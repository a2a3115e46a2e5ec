"""Units come, go, and are opened and closed: rules C, D, O, X, and what a purge loses (Q2)."""

import errno
from ipaddress import IPv4Address

import pytest

from tests.conformance.tun4.rules import rule
from tests.conformance.tun4.units import (
    LOCAL,
    LOCAL6,
    PEER,
    counted,
    ipv4,
    none_of,
    open_unit,
    outcome,
    polls,
)
from tests.support.pcapng import parse
from vbackend.capture import pcapng
from vbackend.dataplane import NativeCapture
from vbackend.tun.driver import IFQMAXLEN, TunDriver
from vbackend.tun.file import open as open_file
from vbackend.tun.vocabulary import DeleteRoute, IfAddr, IfFlag, Ioctl, TunFlag

MODES = TunFlag.PREPADDR | TunFlag.NBIO | TunFlag.ASYNC


# --- create ---


@rule("C1")
def test_c1_a_fresh_unit(driver: TunDriver) -> None:
    unit = driver.create(7)
    assert (unit.name, unit.number, unit.mtu, unit.tunmtu) == ("tun7", 7, 1500, 1500)
    assert (unit.flags, unit.if_flags) == (TunFlag.INITED, IfFlag.POINTOPOINT)
    assert (unit.queue_limit, unit.queue_len, unit.addresses, unit.groups) == (IFQMAXLEN, 0, (), frozenset())
    assert none_of(unit)
    assert driver.unit("tun7") is unit


@rule("C1")
def test_c1_the_queue_holds_ifqmaxlen(driver: TunDriver) -> None:
    unit, _ = open_unit(driver)
    for number in range(IFQMAXLEN):
        unit.output(ipv4(number=number))
    assert outcome(lambda: unit.output(ipv4())) == errno.ENOBUFS


@rule("C1")
def test_c1_a_capture_has_the_family_in_four_bytes(driver: TunDriver) -> None:
    unit, _ = open_unit(driver)
    capture = NativeCapture(1)
    unit.capture(capture)
    unit.output(ipv4())
    head = pcapng.head("test", [pcapng.Interface("tun0", "", pcapng.LinkType.NULL)], 262_144, None)
    (packet,) = parse(head + capture.read(1 << 20)).packets
    assert packet.data == bytes([2, 0, 0, 0]) + ipv4()


@rule("C1")
def test_c1_the_first_free_number_and_one_that_is_taken(driver: TunDriver) -> None:
    assert [driver.create().number for _ in range(3)] == [0, 1, 2]
    driver.destroy(1)
    assert driver.create().number == 1
    assert outcome(lambda: driver.create(1)) == errno.EEXIST
    assert outcome(lambda: driver.create(-1)) == errno.EINVAL


@rule("C2")
def test_c2_a_zombie_is_revived_with_a_fresh_interface(driver: TunDriver) -> None:
    unit, file = open_unit(driver, queue=2)
    file.ioctl("TUNSLMODE", 1)
    file.ioctl("FIOASYNC", 1)
    unit.set_mtu(600)
    unit.set_rate(1_000_000, 1500)
    unit.set_flags(IfFlag.UP | IfFlag.LINK0)
    unit.add_multicast(IPv4Address("224.0.0.1"))
    unit.output(ipv4())
    index = unit.index
    assert (unit.queue_limit, unit.rate, unit.queue_len) == (2, 1_000_000, 1)
    driver.destroy(0)
    assert driver.create(0) is unit
    assert unit.flags == TunFlag.OPEN | TunFlag.INITED | TunFlag.IASET | MODES
    assert (unit.if_flags, unit.mtu, unit.addresses) == (IfFlag.POINTOPOINT, 1500, ())
    assert unit.groups == frozenset()
    assert (unit.queue_limit, unit.rate, unit.queue_len) == (IFQMAXLEN, 0, 0)
    assert unit.index > index
    assert none_of(unit)
    assert not driver.zombies()


@rule("C2")
def test_c2_the_open_file_of_a_revived_unit_goes_on(driver: TunDriver) -> None:
    unit, file = open_unit(driver)
    driver.destroy(0)
    assert outcome(file.read) == errno.ENXIO
    driver.create(0)
    for _ in range(3):
        unit.output(ipv4())
    assert file.read() == ipv4()
    assert file.write(ipv4()) == 28
    assert counted(unit, "opackets", "ipackets") == (3, 1)


# --- destroy ---


@rule("D1", "Q2")
def test_d1_destroy_purges(driver: TunDriver) -> None:
    unit, file = open_unit(driver)
    for _ in range(3):
        unit.output(ipv4())
    driver.destroy("tun0")
    assert counted(unit, "opackets", "purged") == (3, 3)
    assert unit.queue_len == 0
    assert not unit.if_flags & IfFlag.RUNNING
    assert unit.addresses == ()
    assert polls(file) == 0


@rule("D1")
def test_d1_destroy_ends_captures(driver: TunDriver) -> None:
    unit, _ = open_unit(driver)
    capture = NativeCapture(1)
    unit.capture(capture)
    unit.output(ipv4())
    driver.destroy(0)
    driver.create(0)
    unit.output(ipv4())
    assert capture.counts()[0][1] == 1


@rule("D1")
def test_d1_what_is_destroyed_is_gone(driver: TunDriver) -> None:
    unit = driver.create(0)
    driver.destroy(0)
    assert (driver.units(), driver.zombies()) == ((), ())
    calls = (
        lambda: driver.destroy(0),
        lambda: driver.unit(0),
        lambda: unit.output(ipv4()),
        lambda: unit.set_address(LOCAL),
        lambda: unit.set_peer(PEER),
        lambda: unit.add_address(IfAddr(LOCAL)),
        lambda: unit.remove_address(LOCAL),
        lambda: unit.set_broadcast(LOCAL),
        lambda: unit.set_mtu(1500),
        lambda: unit.set_flags(0),
        lambda: unit.add_multicast(IPv4Address("224.0.0.1")),
        lambda: unit.remove_multicast(IPv4Address("224.0.0.1")),
        lambda: unit.ifioctl(0, None),
    )
    assert {outcome(call) for call in calls} == {errno.ENXIO}


@rule("D1")
def test_d1_who_holds_on_to_it_does_not_get_the_next_of_its_number(driver: TunDriver) -> None:
    gone = driver.create(0)
    driver.destroy(0)
    unit = driver.create(0)
    assert outcome(lambda: gone.set_address(LOCAL)) == errno.ENXIO
    assert outcome(lambda: gone.output(ipv4())) == errno.ENXIO
    assert unit.addresses == ()


@rule("D2")
def test_d2_destroyed_while_open_it_is_a_zombie_until_the_close(driver: TunDriver) -> None:
    unit, file = open_unit(driver)
    driver.destroy(0)
    assert driver.units() == ()
    assert driver.zombies() == (0,)
    assert unit.flags & (TunFlag.OPEN | TunFlag.INITED) == TunFlag.OPEN
    file.close()
    assert driver.zombies() == ()
    assert driver.create(0).flags == TunFlag.INITED


@rule("D2")
def test_d2_everything_on_the_device_face_is_enxio(driver: TunDriver) -> None:
    _, file = open_unit(driver)
    driver.destroy(0)
    calls = (file.read, file.read_batch, lambda: file.write(ipv4()), lambda: file.ioctl("FIONREAD"))
    assert {outcome(call) for call in calls} == {errno.ENXIO}
    assert outcome(lambda: file.ioctl("TIOCSTI")) == errno.ENXIO


# --- open ---


@rule("O1")
def test_o1_open_needs_privilege() -> None:
    with TunDriver(privileged=lambda: False) as driver:
        assert outcome(lambda: driver.open(0)) == errno.EPERM
        assert driver.units() == ()


@rule("O1")
def test_o1_open_makes_the_unit(driver: TunDriver) -> None:
    with driver.open(5) as file:
        assert file.name == "tun5"
        assert driver.unit(5).flags == TunFlag.OPEN | TunFlag.INITED
    assert [unit.number for unit in driver.units()] == [5]
    assert outcome(lambda: driver.open(-1)) == errno.ENXIO


@rule("O2")
def test_o2_the_device_face_is_exclusive(driver: TunDriver) -> None:
    unit, file = open_unit(driver)
    assert outcome(lambda: driver.open(0, header="null")) == errno.EBUSY
    assert outcome(lambda: open_file(unit)) == errno.EBUSY
    assert unit.header == "none"
    unit.output(ipv4())
    assert file.read() == ipv4()
    file.close()
    open_file(unit).close()


@rule("O2", "C2")
def test_o2_an_open_of_a_zombie_revives_it_and_is_busy(driver: TunDriver) -> None:
    unit, file = open_unit(driver)
    driver.destroy(0)
    assert outcome(lambda: driver.open(0)) == errno.EBUSY
    assert driver.units() == (unit,)
    unit.set_address(LOCAL)
    assert outcome(file.read) == errno.EWOULDBLOCK


# --- close ---


@rule("X1", "Q2")
def test_x1_close_purges_and_takes_it_down(driver: TunDriver) -> None:
    unit, file = open_unit(driver)
    unit.output(ipv4())
    unit.output(ipv4())
    file.ioctl("TIOCSPGRP", 0)
    file.close()
    assert counted(unit, "opackets", "purged") == (2, 2)
    assert unit.queue_len == 0
    assert not unit.flags & TunFlag.OPEN
    assert unit.if_flags & (IfFlag.UP | IfFlag.RUNNING) == IfFlag.RUNNING
    assert unit.owner == 0


@rule("X1")
@pytest.mark.parametrize("peer", [None, PEER])
def test_x1_close_deletes_the_routes_of_ipv4(peer: IPv4Address | None) -> None:
    deleted: list[tuple[str, DeleteRoute]] = []
    with TunDriver(delete_route=lambda name, route: deleted.append((name, route))) as driver:
        unit, file = open_unit(driver)
        addresses = [IfAddr(LOCAL, peer), IfAddr(IPv4Address("10.9.0.1"), peer)]
        for address in (*addresses, IfAddr(LOCAL6)):
            unit.add_address(address)
        file.close()
        assert deleted == [("tun0", DeleteRoute(address, host=peer is not None)) for address in addresses]


@rule("X1")
@pytest.mark.parametrize("before", ["down", "destroyed"])
def test_x1_close_of_what_is_not_up_deletes_none(before: str) -> None:
    deleted: list[str] = []
    with TunDriver(delete_route=lambda name, _: deleted.append(name)) as driver:
        unit, file = open_unit(driver)
        if before == "down":
            unit.set_flags(0)
        else:
            driver.destroy(0)
        file.close()
    assert not deleted


@rule("X1")
def test_x1_a_closed_file_is_ebadf(driver: TunDriver) -> None:
    unit, file = open_unit(driver)
    file.close()
    file.close()
    assert file.closed
    with driver.open(0) as other:
        calls = (
            file.read,
            file.read_batch,
            file.fileno,
            lambda: file.write(ipv4()),
            lambda: file.ioctl("FIONBIO", 1),
            lambda: file.kevent(0),
            lambda: file.poll(1),
        )
        assert {outcome(call) for call in calls} == {errno.EBADF}
        file.close()
        unit.set_address(LOCAL)
        unit.output(ipv4())
        assert other.read() == ipv4()


@rule("X1")
def test_x1_a_file_that_was_closed_for_its_owner_has_no_say_in_the_next(driver: TunDriver) -> None:
    unit, file = open_unit(driver)
    driver.close(0)
    with driver.open(0, nonblocking=False):
        assert file.closed
        assert outcome(lambda: file.ioctl("FIONBIO", 1)) == errno.EBADF
        assert not unit.flags & TunFlag.NBIO


@rule("X2")
def test_x2_close_keeps_the_addresses(driver: TunDriver) -> None:
    unit, file = open_unit(driver)
    unit.set_peer(PEER)
    file.close()
    assert outcome(lambda: unit.output(ipv4())) == errno.EHOSTDOWN
    assert unit.flags & (TunFlag.IASET | TunFlag.DSTADDR) == TunFlag.IASET | TunFlag.DSTADDR
    with driver.open(0) as again:
        unit.output(ipv4())
        assert again.read() == ipv4()


@rule("X3")
def test_x3_close_keeps_the_modes(driver: TunDriver) -> None:
    unit, file = open_unit(driver)
    for request in (Ioctl.TUNSLMODE, Ioctl.FIONBIO, Ioctl.FIOASYNC):
        file.ioctl(request, 1)
    file.close()
    assert unit.flags & MODES == MODES
    with driver.open(0) as again:
        assert outcome(again.read) == errno.EWOULDBLOCK
        unit.output(ipv4())
        assert again.read()[:8] == bytes([16, 2, 0, 0, *LOCAL.packed])


@rule("Q2")
def test_q2_what_is_read_is_not_lost(driver: TunDriver) -> None:
    unit, file = open_unit(driver)
    for number in range(5):
        unit.output(ipv4(number=number))
    assert file.read_batch(3) == [ipv4(number=number) for number in range(3)]
    unit.set_flags(0)
    assert counted(unit, "opackets", "purged") == (5, 2)
    file.close()
    driver.destroy(0)
    assert counted(unit, "purged") == (2,)
