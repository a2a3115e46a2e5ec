"""Descriptors of tap and tun devices (Linux `drivers/net/tun.c`, `Documentation/networking/tuntap.rst`).

Works in the namespace of the calling thread. A device made here is not persistent: it vanishes with its descriptor,
also when the process is killed. Not here: addresses and everything else netlink does.
"""

import errno
import fcntl
import os
import pwd
import struct
from pathlib import Path
from typing import Final, Literal

from vbackend.errors import ConfigError, HostError
from vbackend.fds import OwnedFd

__all__ = ["VNET_HEADER_LEN", "check_ifname", "open_device", "user_id"]

VNET_HEADER_LEN: Final = 12  # virtio_net_hdr_mrg_rxbuf: what VERSION_1 guests use

_DEVICE: Final = Path("/dev/net/tun")
_TUNSETIFF: Final = 0x400454CA
_TUNSETOWNER: Final = 0x400454CC
_TUNSETOFFLOAD: Final = 0x400454D0
_TUNSETVNETHDRSZ: Final = 0x400454D8
_IFF_TUN: Final = 0x0001
_IFF_TAP: Final = 0x0002
_IFF_NO_PI: Final = 0x1000
_IFF_VNET_HDR: Final = 0x4000
_IFNAMSIZ: Final = 16


def check_ifname(name: str) -> str:
    """The name, when a device can have it. ConfigError otherwise (kernel: `dev_valid_name`)."""
    fits = 0 < len(name.encode()) < _IFNAMSIZ and name not in (".", "..")
    if not fits or any(char in "/:%" or char.isspace() for char in name):
        raise ConfigError(
            f"device name {name!r}: give 1 to {_IFNAMSIZ - 1} bytes without space, '/', ':' and '%', e.g. tap0"
        )
    return name


def user_id(owner: str) -> int:
    """A user's number from its name or number. ConfigError: there is no such user."""
    if owner.isdigit():
        return int(owner)
    try:
        return pwd.getpwnam(owner).pw_uid
    except KeyError:
        raise ConfigError(f"owner={owner}: there is no such user; give a name or a number") from None


def open_device(kind: Literal["tap", "tun"], ifname: str, *, owner: int | None = None) -> OwnedFd:
    """Attach to a device of this name, made when there is none.

    Taps have a virtio-net header of `VNET_HEADER_LEN` bytes and offloads off, so that the host hands over complete
    checksums and no GSO frames, which a QEMU stream could not take. Tuns carry bare IP.
    """
    flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR if kind == "tap" else _IFF_TUN | _IFF_NO_PI
    what = f"{kind} device {ifname}"
    try:
        fd = OwnedFd(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        raise HostError(
            f"cannot open {_DEVICE} for {what}: {error.strerror}; {_open_remedy(error)}"
        ) from error
    try:
        fcntl.ioctl(fd.fileno(), _TUNSETIFF, struct.pack("16sH22x", ifname.encode(), flags))
        if kind == "tap":
            fcntl.ioctl(fd.fileno(), _TUNSETVNETHDRSZ, struct.pack("i", VNET_HEADER_LEN))
            fcntl.ioctl(fd.fileno(), _TUNSETOFFLOAD, 0)
        if owner is not None:
            fcntl.ioctl(fd.fileno(), _TUNSETOWNER, owner)
    except OSError as error:
        fd.close()
        raise HostError(
            f"cannot attach {what}: {error.strerror}; {_attach_remedy(error, kind, ifname)}"
        ) from error
    return fd


def _open_remedy(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENODEV):
        return "load the module with `modprobe tun`, or give the container --device /dev/net/tun"
    return f"allow it with `chmod 0666 {_DEVICE}`, or run as root"


def _attach_remedy(error: OSError, kind: str, ifname: str) -> str:
    match error.errno:
        case errno.EPERM:
            return (
                "it needs CAP_NET_ADMIN: run as root, or have root make it once with "
                f"`ip tuntap add dev {ifname} mode {kind} user $USER`"
            )
        case errno.EBUSY:
            return "another program has it; end that program or take another name"
        case errno.EINVAL:
            return f"a device of that name exists and is not a single-queue {kind}; take another name"
        case _:
            return "see `ip -d link`"
