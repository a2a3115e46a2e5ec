"""One unit: close, the interface face, the device face."""

import errno
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from vbackend.tun.unit import Unit
from vbackend.tun.vocabulary import (
    Command,
    DeleteRoute,
    IfAddr,
    IfFlag,
    IfIoctl,
    Ioctl,
    NotifyPollers,
    PollCode,
    Purge,
    Signal,
    TunFlag,
    Wake,
)

LOCAL, PEER = IPv4Address("10.7.0.1"), IPv4Address("10.7.0.2")
LOCAL6, PEER6 = IPv6Address("fd00::1"), IPv6Address("fd00::2")
UP = IfFlag.UP | IfFlag.RUNNING


def unit_() -> Unit:
    unit = Unit(0)
    unit.attach(1, 1500)
    unit.open(1, None)
    return unit


def refusal(unit: Unit, request: int, value: object) -> int | None:
    """The errno of an interface ioctl, which changes nothing."""
    before = unit.state(), unit.mtu, list(unit.addresses)
    with pytest.raises(OSError, match="tun0") as refused:
        unit.ifioctl(request, value)
    assert (unit.state(), unit.mtu, unit.addresses) == before
    return refused.value.errno


def ioctl_refusal(unit: Unit, request: int, value: int, owner_errno: int = 0) -> int | None:
    before = unit.state()
    with pytest.raises(OSError, match="tun0") as refused:
        unit.ioctl(request, value, owner_errno=owner_errno)
    assert unit.state() == before
    return refused.value.errno


# --- close ---


@pytest.mark.parametrize("peer", [None, PEER])
def test_x1_close_takes_the_interface_down(peer: IPv4Address | None) -> None:
    unit = unit_()
    address = IfAddr(LOCAL, peer)
    unit.add_address(address)
    unit.add_address(IfAddr(LOCAL6))
    unit.ioctl(Ioctl.FIOSETOWN, 42)
    route = DeleteRoute(address, host=peer is not None)
    assert unit.close() == [unit.state(), Purge(), route, Wake(), NotifyPollers()]
    assert (unit.owner, unit.ticket) == (0, 0)
    assert unit.if_flags & UP == IfFlag.RUNNING


def test_x1_close_of_one_that_is_down_deletes_no_routes() -> None:
    unit = unit_()
    unit.set_address(LOCAL)
    unit.set_flags(0)
    assert unit.close() == [unit.state(), Purge(), Wake(), NotifyPollers()]


def test_x2_x3_addresses_and_modes_survive_a_close() -> None:
    unit = unit_()
    unit.set_address(LOCAL)
    for request in (Ioctl.FIONBIO, Ioctl.FIOASYNC, Ioctl.TUNSLMODE):
        unit.ioctl(request, 1)
    before = unit.flags
    unit.close()
    assert not unit.ready
    unit.open(2, None)
    assert unit.flags == before
    assert unit.ready


# --- the interface face ---


@pytest.mark.parametrize(("local", "peer"), [(LOCAL, PEER), (LOCAL6, PEER6)])
def test_a1_addresses_bring_it_up(local: IPv4Address | IPv6Address, peer: IPv4Address | IPv6Address) -> None:
    unit = unit_()
    assert unit.set_address(local) == [unit.state()]
    assert unit.if_flags & UP == UP
    assert unit.ready
    assert not unit.flags & TunFlag.DSTADDR
    unit.set_peer(peer)
    assert unit.flags & TunFlag.DSTADDR
    assert unit.addresses == [IfAddr(local, peer)]
    zero = type(local)(0)
    unit.set_peer(zero)
    unit.set_address(zero)
    assert not unit.flags & (TunFlag.IASET | TunFlag.DSTADDR)
    assert unit.if_flags & UP == UP


def test_a1_a_peer_alone_is_not_ready() -> None:
    unit = unit_()
    unit.set_peer(PEER)
    assert unit.addresses == [IfAddr(IPv4Address(0), PEER)]
    assert unit.flags & (TunFlag.IASET | TunFlag.DSTADDR) == TunFlag.DSTADDR


def test_a1_flags_are_of_all_addresses() -> None:
    unit = unit_()
    unit.add_address(IfAddr(IPv4Address(0)))
    unit.add_address(IfAddr(LOCAL6, PEER6))
    assert unit.ready
    assert unit.flags & TunFlag.DSTADDR
    unit.add_address(IfAddr(LOCAL6))
    assert len(unit.addresses) == 2
    assert not unit.flags & TunFlag.DSTADDR


def test_a1_a_broadcast_unit_has_no_dstaddr() -> None:
    unit = unit_()
    unit.ioctl(Ioctl.TUNSIFMODE, IfFlag.BROADCAST)
    unit.add_address(IfAddr(LOCAL, PEER))
    assert unit.ready
    assert not unit.flags & TunFlag.DSTADDR


def test_a1_the_broadcast_address_changes_nothing() -> None:
    unit = unit_()
    assert refusal(unit, IfIoctl.SIOCSIFBRDADDR, PEER) == errno.EADDRNOTAVAIL
    unit.set_address(LOCAL)
    unit.set_flags(0)
    before = unit.state()
    assert unit.ifioctl(IfIoctl.SIOCSIFBRDADDR, PEER) == []
    assert unit.state() == before
    assert unit.addresses == [IfAddr(LOCAL, None, PEER)]
    assert refusal(unit, IfIoctl.SIOCSIFBRDADDR, PEER6) == errno.EAFNOSUPPORT


def test_removing_an_address_is_not_told_to_the_driver() -> None:
    unit = unit_()
    unit.set_address(LOCAL)
    assert unit.remove_address(LOCAL) == []
    assert unit.ready
    unit.set_peer(PEER)
    assert not unit.ready
    with pytest.raises(OSError, match=r"remove 10\.7\.0\.1 from tun0") as refused:
        unit.remove_address(LOCAL)
    assert refused.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.parametrize(
    ("tunmtu", "mtu", "fits"),
    [
        (1500, 575, False),
        (1500, 576, True),
        (1500, 1500, True),
        (1500, 1501, False),
        (9000, 9000, True),
        (9000, 9001, False),
        (1500, -1, False),
    ],
)
def test_a2_mtu(tunmtu: int, mtu: int, fits: bool) -> None:
    unit = Unit(0)
    unit.attach(1, tunmtu)
    if fits:
        assert unit.ifioctl(IfIoctl.SIOCSIFMTU, mtu) == []
        assert unit.mtu == mtu
    else:
        assert refusal(unit, IfIoctl.SIOCSIFMTU, mtu) == errno.EINVAL


def test_a3_multicast() -> None:
    unit = unit_()
    groups = {ip_address("224.0.0.1"), ip_address("ff02::1")}
    for group in groups:
        assert unit.ifioctl(IfIoctl.SIOCADDMULTI, group) == []
    assert unit.groups == groups
    for group in groups:
        assert unit.ifioctl(IfIoctl.SIOCDELMULTI, group) == []
        assert unit.ifioctl(IfIoctl.SIOCDELMULTI, group) == []
    assert not unit.groups
    for request in (IfIoctl.SIOCADDMULTI, IfIoctl.SIOCDELMULTI, IfIoctl.SIOCSIFADDR):
        assert refusal(unit, request, b"\x01\x00\x5e\x00\x00\x01") == errno.EAFNOSUPPORT


def test_a3_flags() -> None:
    unit = unit_()
    changes: list[tuple[int, int, list[type[Command]]]] = [
        (0xFFFF, 0x7015, []),
        (IfFlag.UP, 0x0011, []),
        (0, 0x0010, [Purge]),
        (0, 0x0010, []),
    ]
    for value, expected, more in changes:
        commands = unit.ifioctl(IfIoctl.SIOCSIFFLAGS, value)
        assert commands[0] == unit.state()
        assert [type(command) for command in commands[1:]] == more
        assert unit.if_flags == expected


@pytest.mark.parametrize("value", [0, LOCAL, None])
@pytest.mark.parametrize("request_", [0, 0xC0206911, Ioctl.FIONBIO])
def test_a3_any_other_interface_ioctl(request_: int, value: object) -> None:
    assert refusal(unit_(), request_, value) == errno.EINVAL


def test_numbers_are_no_addresses() -> None:
    assert refusal(unit_(), IfIoctl.SIOCSIFMTU, LOCAL) == errno.EINVAL


# --- the device face ---


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0x10, 0x10), (0x2, 0x2), (0x8002, 0x8002), (0x8010, 0x8010), (0x43 | 0x20, 0x2)],
)
def test_i1_ifmode(value: int, expected: int) -> None:
    unit = unit_()
    unit.ioctl(Ioctl.TUNSIFMODE, 0x8002)
    assert unit.ioctl(Ioctl.TUNSIFMODE, value) == (0, [unit.state()])
    assert unit.if_flags == expected


def test_i1_ifmode_refuses() -> None:
    unit = unit_()
    unit.set_flags(IfFlag.UP)
    for value in (0, 0x12, 0x8000, 0x1):
        assert ioctl_refusal(unit, Ioctl.TUNSIFMODE, value) == errno.EINVAL
    assert ioctl_refusal(unit, Ioctl.TUNSIFMODE, 0x2) == errno.EBUSY


@pytest.mark.parametrize(
    ("request_", "flag"),
    [
        (Ioctl.TUNSLMODE, TunFlag.PREPADDR),
        (Ioctl.FIONBIO, TunFlag.NBIO),
        (Ioctl.FIOASYNC, TunFlag.ASYNC),
    ],
)
def test_i1_modes(request_: Ioctl, flag: TunFlag) -> None:
    unit = unit_()
    before = unit.flags
    assert unit.ioctl(request_, 5) == (0, [unit.state()])
    assert unit.flags == before | flag
    unit.ioctl(request_, 0)
    assert unit.flags == before


@pytest.mark.parametrize(("value", "header"), [(0, "none"), (1, "sockaddr")])
def test_i1_slmode_is_a_header(value: int, header: str) -> None:
    unit = Unit(0)
    unit.attach(1, 1500)
    unit.open(1, "pi")
    unit.ioctl(Ioctl.TUNSLMODE, value)
    assert unit.header == header


def test_i1_fionread_is_the_length_of_the_first_packet() -> None:
    assert unit_().ioctl(Ioctl.FIONREAD, first_len=84) == (84, [])


@pytest.mark.parametrize(
    ("request_", "value", "owner", "group"),
    [
        (Ioctl.FIOSETOWN, 42, 42, -42),
        (Ioctl.FIOSETOWN, -42, -42, 42),
        (Ioctl.TIOCSPGRP, 42, -42, 42),
        (Ioctl.FIOSETOWN, 0, 0, 0),
        (Ioctl.TIOCSPGRP, 0, 0, 0),
    ],
)
def test_i1_owner(request_: Ioctl, value: int, owner: int, group: int) -> None:
    unit = unit_()
    unit.ioctl(Ioctl.FIOSETOWN, 7)
    if value:
        for host in (errno.ESRCH, errno.EPERM):
            assert ioctl_refusal(unit, request_, value, host) == host
    unit.ioctl(request_, value)
    assert unit.owner == owner
    assert unit.ioctl(Ioctl.FIOGETOWN) == (owner, [])
    assert unit.ioctl(Ioctl.TIOCGPGRP) == (group, [])


def test_i1_refusals() -> None:
    unit = unit_()
    assert ioctl_refusal(unit, Ioctl.TIOCSPGRP, -1, errno.ESRCH) == errno.EINVAL
    assert ioctl_refusal(unit, 0x8004745D, 1) == errno.ENOTTY


def test_signals_need_async_and_an_owner() -> None:
    unit = unit_()
    unit.ioctl(Ioctl.FIOASYNC, 1)
    assert unit.signals(PollCode.IN) == []
    unit.ioctl(Ioctl.FIOSETOWN, -42)
    assert unit.signals(PollCode.IN) == [Signal(-42, PollCode.IN)]
    unit.ioctl(Ioctl.FIOASYNC, 0)
    assert unit.signals(PollCode.IN) == []


def test_everything_else_is_enxio_once_the_interface_is_gone() -> None:
    unit = unit_()
    unit.detach()
    assert ioctl_refusal(unit, 0, 0) == errno.ENXIO
    for request, value in (
        (IfIoctl.SIOCSIFADDR, LOCAL),
        (IfIoctl.SIOCSIFDSTADDR, LOCAL),
        (IfIoctl.SIOCSIFBRDADDR, LOCAL),
        (IfIoctl.SIOCADDMULTI, LOCAL),
        (IfIoctl.SIOCDELMULTI, LOCAL),
        (IfIoctl.SIOCSIFMTU, 1500),
        (IfIoctl.SIOCSIFFLAGS, 1),
        (0, None),
    ):
        assert refusal(unit, request, value) == errno.ENXIO
    with pytest.raises(OSError, match="its interface was destroyed") as refused:
        unit.add_address(IfAddr(LOCAL))
    assert refused.value.errno == errno.ENXIO
    with pytest.raises(OSError, match="its interface was destroyed") as refused:
        unit.remove_address(LOCAL)
    assert refused.value.errno == errno.ENXIO
