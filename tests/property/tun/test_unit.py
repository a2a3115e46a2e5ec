"""The same random life of four units, in `UnitTable` and in the naive twin of if_tun.c, compared at every step."""

import errno
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.support.if_tun import AF_INET, AF_INET6, Driver, Softc
from vbackend.tun.table import UnitTable
from vbackend.tun.unit import Unit
from vbackend.tun.vocabulary import Address, IfAddr, IfFlag, IfIoctl, Ioctl

numbers = st.integers(0, 3)
families = st.sampled_from([AF_INET, AF_INET6])
hosts = st.sampled_from([0, errno.ESRCH, errno.EPERM])
flags = (
    st.integers(0, 0xFFFF) | st.builds(int, st.sampled_from(IfFlag)) | st.sampled_from([0x12, 0x8002, 0x8010])
)
mtus = st.sampled_from([-1, 0, 575, 576, 1500, 1501, 9000, 65535, 65536])
setters = ("TUNSLMODE", "FIONBIO", "FIOASYNC", "TUNSDEBUG")
getters = ("TUNGDEBUG", "FIOGETOWN", "TIOCGPGRP", "FIONREAD")


class Twins(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table = UnitTable()
        self.driver = Driver()

    @rule(number=numbers, tunmtu=st.sampled_from([1500, 9000, 65535]))
    def create(self, number: int, tunmtu: int) -> None:
        index = self.driver.if_index + 1
        there = self.driver.tun_find_unit(number) is not None
        code = errno.EEXIST if there else self.driver.tun_clone_create(number, tunmtu)
        assert outcome(lambda: self.table.create(number, index, tunmtu=tunmtu)) == code

    @rule(number=numbers)
    def destroy(self, number: int) -> None:
        tp = self.driver.tun_find_unit(number)
        code = errno.ENXIO if tp is None else self.driver.tun_clone_destroy(tp)
        assert outcome(lambda: self.table.destroy(number)) == code

    @rule(number=numbers, privileged=st.sampled_from([True, True, False]))
    def open(self, number: int, privileged: bool) -> None:
        index = self.driver.if_index + 1
        code = self.driver.tunopen(number, privileged)
        assert outcome(lambda: self.table.open(number, privileged=privileged, index=index)) == code

    @rule(number=numbers)
    def close(self, number: int) -> None:
        """Only of what is open: the kernel never closes anything else."""
        softcs = (*self.driver.tun_softc_list, *self.driver.tunz_softc_list)
        if any(tp.tun_unit == number and tp.tun_flags & 1 for tp in softcs):
            self.driver.tunclose(number)
            assert self.table.close(number)
        else:
            assert not self.table.close(number)

    @rule(
        number=numbers,
        cmd=st.sampled_from(["SIOCSIFADDR", "SIOCSIFDSTADDR", "SIOCSIFBRDADDR"]),
        family=families,
        address=st.integers(0, 2),
    )
    def set_address(self, number: int, cmd: str, family: int, address: int) -> None:
        tp = self.driver.tun_find_unit(number)
        if tp is None:
            code = errno.ENXIO
        elif cmd == "SIOCSIFBRDADDR" and family == AF_INET6:
            code = errno.EAFNOSUPPORT
        else:
            code = self.driver.in_control(tp, cmd, family, address)
        value = IPv4Address(address) if family == AF_INET else IPv6Address(address)
        assert outcome(lambda: self.table.ifioctl(number, IfIoctl[cmd], value)) == code

    @rule(number=numbers, mtu=mtus)
    def set_mtu(self, number: int, mtu: int) -> None:
        tp = self.driver.tun_find_unit(number)
        code = errno.ENXIO if tp is None else self.driver.tun_ioctl(tp, "SIOCSIFMTU", mtu)
        assert outcome(lambda: self.table.ifioctl(number, IfIoctl.SIOCSIFMTU, mtu)) == code

    @rule(number=numbers, value=flags)
    def set_if_flags(self, number: int, value: int) -> None:
        tp = self.driver.tun_find_unit(number)
        code = errno.ENXIO if tp is None else self.driver.ifioctl(tp, value)
        assert outcome(lambda: self.table.ifioctl(number, IfIoctl.SIOCSIFFLAGS, value)) == code

    @rule(number=numbers, cmd=st.sampled_from(["SIOCADDMULTI", "SIOCDELMULTI"]), family=families | st.just(0))
    def multicast(self, number: int, cmd: str, family: int) -> None:
        tp = self.driver.tun_find_unit(number)
        code = errno.ENXIO if tp is None else self.driver.tun_ioctl(tp, cmd, family)
        group = {AF_INET: IPv4Address("224.0.0.1"), AF_INET6: IPv6Address("ff02::1")}.get(family)
        assert outcome(lambda: self.table.ifioctl(number, IfIoctl[cmd], group)) == code

    @rule(number=numbers, cmd=st.sampled_from(setters), value=st.integers(0, 1))
    def set(self, number: int, cmd: str, value: int) -> None:
        self.ioctl(number, cmd, value)

    @rule(number=numbers, value=flags)
    def set_ifmode(self, number: int, value: int) -> None:
        self.ioctl(number, "TUNSIFMODE", value)

    @rule(
        number=numbers,
        cmd=st.sampled_from(["FIOSETOWN", "TIOCSPGRP"]),
        value=st.integers(-2, 2),
        host=hosts,
    )
    def set_owner(self, number: int, cmd: str, value: int, host: int) -> None:
        self.ioctl(number, cmd, value, host)

    @rule(number=numbers, cmd=st.sampled_from(getters))
    def get(self, number: int, cmd: str) -> None:
        data = [0]
        code = self.driver.tunioctl(number, cmd, data)
        found: list[int] = []
        assert outcome(lambda: found.append(self.table.ioctl(number, Ioctl[cmd]).value)) == code
        assert code or found == data

    @rule(number=numbers)
    def unknown(self, number: int) -> None:
        code = self.driver.tunioctl(number, "TIOCSTI", [0])
        assert outcome(lambda: self.table.ioctl(number, 0x8001_7472)) == code

    def ioctl(self, number: int, cmd: str, value: int, host: int = 0) -> None:
        code = self.driver.tunioctl(number, cmd, [value], host)
        assert outcome(lambda: self.table.ioctl(number, Ioctl[cmd], value, owner_errno=host)) == code

    @invariant()
    def the_same(self) -> None:
        assert [seen(unit) for unit in self.table.live] == in_order(self.driver.tun_softc_list)
        assert [seen(unit) for unit in self.table.zombies] == in_order(self.driver.tunz_softc_list)
        assert self.table.tundebug == self.driver.tundebug
        assert all(bool(unit.ticket) == bool(unit.flags & 1) for unit in self.table.live)


def outcome(call: Callable[[], object]) -> int:
    """The errno of a call, 0 when there is none."""
    try:
        call()
    except OSError as error:
        return error.errno or -1
    return 0


State = tuple[int, str, int, int, int, int, int, list[tuple[int, int, int, int]]]


def seen(unit: Unit) -> State:
    return (
        unit.number,
        unit.name,
        unit.flags,
        unit.owner,
        unit.if_flags,
        unit.mtu,
        unit.index,
        [numeric(address) for address in unit.addresses],
    )


def numeric(address: IfAddr) -> tuple[int, int, int, int]:
    def number(value: Address | None) -> int:
        return 0 if value is None else int(value)

    family = AF_INET if address.local.version == 4 else AF_INET6
    return family, int(address.local), number(address.peer), number(address.broadcast)


def in_order(softcs: list[Softc]) -> list[State]:
    return [
        (
            tp.tun_unit,
            tp.tun_if.if_xname,
            tp.tun_flags,
            tp.tun_pgid,
            tp.tun_if.if_flags,
            tp.tun_if.if_mtu,
            tp.tun_if.if_index,
            [(a.sa_family, a.ifa_addr, a.ifa_dstaddr, a.ifa_broadaddr) for a in tp.tun_if.if_addrlist],
        )
        for tp in sorted(softcs, key=lambda tp: tp.tun_unit)
    ]


TestTwins = Twins.TestCase
