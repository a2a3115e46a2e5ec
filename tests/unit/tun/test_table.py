"""Units by number: create, destroy, open, close, and zombies."""

import errno
from ipaddress import IPv4Address
from typing import cast

import pytest

from vbackend.tun.table import Opened, RevivedError, UnitTable
from vbackend.tun.vocabulary import (
    Detach,
    Free,
    Header,
    IfFlag,
    IfIoctl,
    Ioctl,
    NotifyPollers,
    PollCode,
    Purge,
    ResetInterface,
    SetState,
    Signal,
    System,
    TunFlag,
    Wake,
)

LOCAL = IPv4Address("10.7.0.1")


def opened(table: UnitTable, number: int = 0) -> Opened:
    return table.open(number, privileged=True, index=7)


def test_c1_create_makes_a_fresh_unit() -> None:
    table = UnitTable()
    fresh = SetState(TunFlag.INITED, IfFlag.POINTOPOINT, 7, 1500, "none", "netbsd", 0, 0)
    assert table.create(0, 7) == [ResetInterface(), fresh]
    unit = table.find("tun0")
    assert (unit.name, unit.mtu, unit.addresses, unit.groups) == ("tun0", 1500, [], set())
    assert table.live == (table.find(0),) == (unit,)


def test_a_unit_may_have_a_larger_tunmtu_and_another_system() -> None:
    table = UnitTable()
    table.create(3, 1, tunmtu=65535, system="darwin")
    unit = table.find(3)
    assert (unit.mtu, unit.tunmtu, unit.state().system) == (65535, 65535, "darwin")


@pytest.mark.parametrize(
    ("number", "tunmtu", "system"),
    [(-1, None, None), (0, 1499, None), (0, 65536, None), (0, None, "minix")],
)
def test_create_refuses_and_makes_nothing(number: int, tunmtu: int | None, system: str | None) -> None:
    table = UnitTable()
    with pytest.raises(OSError, match="create tun") as refused:
        table.create(number, 1, tunmtu=tunmtu, system=cast(System, system))
    assert refused.value.errno == errno.EINVAL
    assert not table.live


def test_create_of_a_live_unit() -> None:
    table = UnitTable()
    table.create(0, 1)
    with pytest.raises(OSError, match="create tun0: it is there already") as refused:
        table.create(0, 2)
    assert refused.value.errno == errno.EEXIST
    assert table.find(0).index == 1


@pytest.mark.parametrize("unit", [0, "tun0", "tun00", "tun-1", "tap0", "tun" + "9" * 5000, "tun٣"])
def test_what_is_not_there(unit: int | str) -> None:
    table = UnitTable()
    table.create(3, 1)
    for call in (
        lambda: table.find(unit),
        lambda: table.destroy(unit),
        lambda: table.ifioctl(unit, IfIoctl.SIOCSIFMTU, 1500),
    ):
        with pytest.raises(OSError, match="there is no such unit") as refused:
            call()
        assert refused.value.errno == errno.ENXIO


def test_d1_destroy_of_a_closed_unit_frees_it() -> None:
    table = UnitTable()
    table.create(0, 1)
    unit = table.find(0)
    assert table.destroy("tun0") == [unit.state(), Purge(), Wake(), NotifyPollers(), Detach(), Free()]
    assert not table.live
    assert not table.zombies
    assert unit.flags == 0


def test_d2_destroy_of_an_open_unit_makes_a_zombie() -> None:
    table = UnitTable()
    ticket = opened(table).ticket
    unit = table.find(0)
    unit.set_address(LOCAL)
    table.ioctl(0, Ioctl.FIOASYNC, 1)
    table.ioctl(0, Ioctl.FIOSETOWN, 42)
    hup = Signal(42, PollCode.HUP)
    assert table.destroy(0) == [unit.state(), Purge(), Wake(), hup, NotifyPollers(), Detach()]
    assert table.zombies == (unit,)
    assert unit.flags == TunFlag.OPEN | TunFlag.IASET | TunFlag.ASYNC
    assert not unit.if_flags & IfFlag.RUNNING
    with pytest.raises(OSError, match="no such unit") as refused:
        table.ioctl(0, Ioctl.TUNGDEBUG)
    assert refused.value.errno == errno.ENXIO
    assert table.close(0, ticket + 1) == []
    assert table.close(0, ticket) == [Free()]
    assert not table.zombies


def test_c2_create_revives_a_zombie() -> None:
    table = UnitTable()
    ticket = opened(table).ticket
    unit = table.find(0)
    unit.set_address(LOCAL)
    unit.set_mtu(600)
    for request, value in (
        (Ioctl.TUNSLMODE, 1),
        (Ioctl.FIONBIO, 1),
        (Ioctl.FIOASYNC, 1),
        (Ioctl.FIOSETOWN, 9),
    ):
        table.ioctl(0, request, value)
    kept = unit.flags
    table.destroy(0)
    expected = SetState(kept, IfFlag.POINTOPOINT, 8, 1500, "sockaddr", "netbsd", 9, ticket)
    assert table.create(0, 8) == [ResetInterface(), expected]
    assert table.find(0) is unit
    assert (unit.mtu, unit.addresses) == (1500, [])
    assert not table.zombies


def test_o1_open_needs_privilege_and_makes_the_unit() -> None:
    table = UnitTable()
    with pytest.raises(OSError, match="open tun0: needs privilege") as refused:
        table.open(0, privileged=False, index=1)
    assert refused.value.errno == errno.EPERM
    assert not table.live
    with pytest.raises(OSError, match="cannot be made") as refused:
        table.open(0, privileged=True, index=None)
    assert refused.value.errno == errno.ENXIO
    found = table.open(0, privileged=True, index=1)
    unit = table.find(0)
    assert unit.flags == TunFlag.OPEN | TunFlag.INITED
    assert found.ticket == unit.ticket
    assert found.commands[0] == ResetInterface()
    assert found.commands[-1] == unit.state()


def test_o2_the_device_face_is_exclusive() -> None:
    table = UnitTable()
    first = opened(table)
    before = table.find(0).state()
    with pytest.raises(OSError, match="open tun0: its device face is open already") as refused:
        table.open(0, privileged=True, index=9, header="pi")
    assert refused.value.errno == errno.EBUSY
    assert table.find(0).state() == before
    table.close(0)
    assert opened(table).ticket > first.ticket
    assert table.close(0, first.ticket) == []


def test_o2_open_of_a_zombie_revives_it_and_is_busy() -> None:
    table = UnitTable()
    opened(table)
    unit = table.find(0)
    table.destroy(0)
    with pytest.raises(RevivedError) as refused:
        table.open(0, privileged=True, index=8)
    assert refused.value.errno == errno.EBUSY
    assert refused.value.commands == [ResetInterface(), unit.state()]
    assert table.live == (unit,)
    assert unit.index == 8


def test_x3_open_keeps_the_header_unless_it_names_one() -> None:
    table = UnitTable()
    headers: list[tuple[Header | None, str, bool]] = [
        (None, "none", False),
        ("pi", "pi", False),
        (None, "pi", False),
        ("sockaddr", "sockaddr", True),
        (None, "sockaddr", True),
        ("loop", "loop", False),
    ]
    for header, expected, prepaddr in headers:
        table.open(0, privileged=True, index=1, header=header)
        unit = table.find(0)
        assert (unit.header, bool(unit.flags & TunFlag.PREPADDR)) == (expected, prepaddr)
        table.close(0)
    with pytest.raises(OSError, match="no header 'snap'") as refused:
        table.open(0, privileged=True, index=1, header=cast(Header, "snap"))
    assert refused.value.errno == errno.EINVAL


def test_close_of_what_is_not_open_does_nothing() -> None:
    table = UnitTable()
    assert table.close(0) == []
    table.create(0, 1)
    table.find(0).set_address(LOCAL)
    assert table.close(0) == []
    assert table.find(0).if_flags & IfFlag.UP


def test_i1_the_debug_flag_is_the_drivers() -> None:
    table = UnitTable()
    table.create(0, 1)
    table.create(1, 2)
    assert table.ioctl(0, Ioctl.TUNSDEBUG, 3) == (0, [])
    assert table.ioctl(1, Ioctl.TUNGDEBUG).value == table.tundebug == 3
    assert [unit.name for unit in table.live] == ["tun0", "tun1"]
