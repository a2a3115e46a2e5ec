"""The numbers are NetBSD's."""

from ipaddress import IPv4Address, IPv6Address

import pytest

from vbackend.errors import ConfigError
from vbackend.tun.vocabulary import READY, IfAddr, IfIoctl, Ioctl


@pytest.mark.parametrize(
    ("request_", "number"),
    [
        (Ioctl.TUNSDEBUG, 0x8004745A),
        (Ioctl.TUNGDEBUG, 0x40047459),
        (Ioctl.TUNSIFMODE, 0x80047458),
        (Ioctl.TUNSLMODE, 0x80047457),
        (Ioctl.FIONBIO, 0x8004667E),
        (Ioctl.FIOASYNC, 0x8004667D),
        (Ioctl.FIONREAD, 0x4004667F),
        (Ioctl.FIOSETOWN, 0x8004667C),
        (Ioctl.FIOGETOWN, 0x4004667B),
        (Ioctl.TIOCSPGRP, 0x80047476),
        (Ioctl.TIOCGPGRP, 0x40047477),
        (IfIoctl.SIOCSIFADDR, 0x8020690C),
        (IfIoctl.SIOCSIFDSTADDR, 0x8020690E),
        (IfIoctl.SIOCSIFFLAGS, 0x80206910),
        (IfIoctl.SIOCSIFBRDADDR, 0x80206913),
        (IfIoctl.SIOCADDMULTI, 0x80206931),
        (IfIoctl.SIOCDELMULTI, 0x80206932),
        (IfIoctl.SIOCSIFMTU, 0x8020697F),
    ],
)
def test_requests(request_: int, number: int) -> None:
    assert request_ == number


def test_ready_is_three_flags() -> None:
    assert READY == 0xB


def test_an_address_is_of_one_family() -> None:
    local, other = IPv4Address("10.7.0.1"), IPv6Address("fd00::2")
    assert IfAddr(local, IPv4Address("10.7.0.2"), IPv4Address("10.7.0.255")).local == local
    with pytest.raises(ConfigError, match=r"peer fd00::2 of 10\.7\.0\.1"):
        IfAddr(local, other)
    with pytest.raises(ConfigError, match=r"broadcast 10\.7\.0\.1 of fd00::2"):
        IfAddr(other, None, local)
