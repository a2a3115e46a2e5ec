import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import pytest

from tests.support.netns import Namespace, netns
from vbackend.errors import ConfigError, HostError
from vbackend.fds import OwnedFd
from vbackend.host.device import (
    VNET_HEADER_LEN,
    DeviceFlags,
    attach,
    check_ifname,
    header_flags,
    header_length,
    open_device,
    set_carrier,
    set_header,
    set_offloads,
)
from vbackend.host.netns import run_in_namespace

__all__ = ["netns"]

T = TypeVar("T")


@pytest.mark.parametrize("name", ["a", "tap0", "fifteen-bytes-x", "eth0.7", "tap_ä"])
def test_names_a_device_can_have(name: str) -> None:
    assert check_ifname(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "sixteen-bytes-xx", "äääääääää", "a b", "a\tb", "a/b", "tap%d", "eth0:1", "a\n"]
)
def test_names_it_cannot_have(name: str) -> None:
    with pytest.raises(ConfigError, match="give 1 to 15 bytes"):
        check_ifname(name)


@pytest.mark.parametrize(
    ("kind", "vnet_hdr", "packet_info", "flags"),
    [
        ("tap", False, False, DeviceFlags.TAP | DeviceFlags.NO_PI),
        ("tap", True, False, DeviceFlags.TAP | DeviceFlags.NO_PI | DeviceFlags.VNET_HDR),
        ("tun", False, False, DeviceFlags.TUN | DeviceFlags.NO_PI),
        ("tun", False, True, DeviceFlags.TUN),
    ],
)
def test_what_stands_in_front(
    kind: Literal["tap", "tun"], vnet_hdr: bool, packet_info: bool, flags: DeviceFlags
) -> None:
    assert header_flags(kind, vnet_hdr=vnet_hdr, packet_info=packet_info) == flags


def test_no_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("vbackend.host.device._DEVICE", tmp_path / "tun")
    with pytest.raises(HostError, match=r"cannot open .* for tap device tap0: No such file .*`modprobe tun`"):
        open_device("tap", "tap0", existing=None)


def test_a_driver_nobody_may_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(HostError, match="Permission denied; allow it with `chmod 0666 /dev/net/tun`"):
        open_device("tun", "tun0", existing=None)


def inside(netns: Namespace, work: Callable[[], T]) -> T:
    return run_in_namespace(netns.name, work)


@pytest.mark.root
@pytest.mark.parametrize(("kind", "vnet_hdr"), [("tap", False), ("tap", True), ("tun", False)])
def test_made_and_gone(netns: Namespace, kind: Literal["tap", "tun"], vnet_hdr: bool) -> None:
    opening = partial(open_device, kind, "dev0", existing=None, owner=4242, vnet_hdr=vnet_hdr)
    with inside(netns, opening) as fd:
        facts = netns.links()["dev0"]["linkinfo"]["info_data"]
        assert (facts["type"], facts["pi"], facts["vnet_hdr"], facts["persist"]) == (
            kind,
            False,
            vnet_hdr,
            False,
        )
        assert facts["user"] == 4242
        assert not os.get_blocking(fd.fileno())
        assert not os.get_inheritable(fd.fileno())
    assert "dev0" not in netns.links()


@pytest.mark.root
def test_packet_information(netns: Namespace) -> None:
    with inside(netns, lambda: open_device("tun", "dev0", existing=None, packet_info=True)):
        assert netns.links()["dev0"]["linkinfo"]["info_data"]["pi"] is True


@pytest.mark.root
def test_the_header(netns: Namespace) -> None:
    with inside(netns, lambda: open_device("tap", "dev0", existing=None, vnet_hdr=True)) as fd:
        set_header(fd, VNET_HEADER_LEN)
        assert header_length(fd) == 12
        set_header(fd, 10)
        assert header_length(fd) == 10


@pytest.mark.root
def test_the_carrier(netns: Namespace) -> None:
    with inside(netns, lambda: open_device("tap", "dev0", existing=None)) as fd:
        netns.ip("link", "set", "dev0", "up")
        for up in (False, True, False):
            set_carrier(fd, up=up)
            assert ("LOWER_UP" in netns.links()["dev0"]["flags"]) is up
        netns.ip("link", "delete", "dev0")
        with pytest.raises(OSError, match="bad state"):
            set_carrier(fd, up=True)


@pytest.mark.parametrize(("refused", "last"), [(0, 0x6F), (1, 0x0F), (2, 0)])
def test_the_kernel_decides_on_offloads(monkeypatch: pytest.MonkeyPatch, refused: int, last: int) -> None:
    """UDP segments are known since Linux 6.2, and both versions come together or not at all."""
    offers: list[int] = []

    def ioctl(_fd: int, _request: int, offer: int) -> int:
        offers.append(offer)
        if len(offers) <= refused:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return 0

    monkeypatch.setattr("fcntl.ioctl", ioctl)
    with OwnedFd(os.open("/dev/null", os.O_RDWR)) as fd:
        assert set_offloads(fd, wanted=True) == last == offers[-1]
        offers[:] = [1] * refused
        assert set_offloads(fd, wanted=False) == 0 == offers[-1]


def test_a_device_that_went_away_has_no_offloads(monkeypatch: pytest.MonkeyPatch) -> None:
    def ioctl(*_: object) -> int:
        raise OSError(errno.EBADFD, os.strerror(errno.EBADFD))

    monkeypatch.setattr("fcntl.ioctl", ioctl)
    with OwnedFd(os.open("/dev/null", os.O_RDWR)) as fd, pytest.raises(OSError, match="bad state"):
        set_offloads(fd, wanted=True)


@pytest.mark.root
def test_making_never_attaches_to_what_came_meanwhile(netns: Namespace) -> None:
    netns.ip("tuntap", "add", "dev", "dev0", "mode", "tap")
    with pytest.raises(HostError, match="cannot make tap device dev0: Device or resource busy"):
        inside(netns, lambda: open_device("tap", "dev0", existing=None))


@pytest.mark.root
def test_attach_keeps_the_kernels_error(netns: Namespace) -> None:
    netns.ip("tuntap", "add", "dev", "dev0", "mode", "tun")

    def tap_on_tun() -> OwnedFd:
        return attach("dev0", DeviceFlags.TAP | DeviceFlags.NO_PI)

    with pytest.raises(OSError, match="Invalid argument"):
        inside(netns, tap_on_tun)
