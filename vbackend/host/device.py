"""Descriptors of tap and tun devices (Linux `drivers/net/tun.c`, `Documentation/networking/tuntap.rst`).

Works in the namespace of the calling thread. A device made here is not persistent: it vanishes with its descriptor,
also when the process is killed. Not here: addresses and everything else netlink does.
"""

import errno
import fcntl
import os
import struct
from enum import IntFlag
from pathlib import Path
from typing import Final, Literal

from vbackend.errors import ConfigError, HostError
from vbackend.fds import OwnedFd
from vbackend.host.link import TunFacts

__all__ = [
    "VNET_HEADER_LEN",
    "DeviceFlags",
    "Offloads",
    "attach",
    "check_ifname",
    "header_flags",
    "header_length",
    "open_device",
    "set_carrier",
    "set_header",
    "set_offloads",
]

VNET_HEADER_LEN: Final = 12  # virtio_net_hdr_mrg_rxbuf: what VERSION_1 guests use

_DEVICE: Final = Path("/dev/net/tun")
_TUNSETIFF: Final = 0x400454CA
_TUNSETOWNER: Final = 0x400454CC
_TUNSETOFFLOAD: Final = 0x400454D0
_TUNGETVNETHDRSZ: Final = 0x800454D7
_TUNSETVNETHDRSZ: Final = 0x400454D8
_TUNSETCARRIER: Final = 0x400454E2
_IFNAMSIZ: Final = 16


class DeviceFlags(IntFlag):
    """The IFF_ flags of TUNSETIFF (linux/if_tun.h)."""

    TUN = 0x0001
    TAP = 0x0002
    MULTI_QUEUE = 0x0100
    NO_PI = 0x1000
    VNET_HDR = 0x4000
    TUN_EXCL = 0x8000  # EBUSY when the device is there already


class Offloads(IntFlag):
    """The TUN_F_ flags of TUNSETOFFLOAD (linux/if_tun.h)."""

    CSUM = 0x01
    TSO4 = 0x02
    TSO6 = 0x04
    TSO_ECN = 0x08
    USO4 = 0x20
    USO6 = 0x40


_OFFERS: Final = (
    Offloads.CSUM | Offloads.TSO4 | Offloads.TSO6 | Offloads.TSO_ECN | Offloads.USO4 | Offloads.USO6,
    Offloads.CSUM | Offloads.TSO4 | Offloads.TSO6 | Offloads.TSO_ECN,  # before Linux 6.2
    Offloads(0),
)


def check_ifname(name: str) -> str:
    """The name, when a device can have it. ConfigError otherwise (kernel: `dev_valid_name`)."""
    fits = 0 < len(name.encode()) < _IFNAMSIZ and name not in (".", "..")
    if not fits or any(char in "/:%" or char.isspace() for char in name):
        raise ConfigError(
            f"device name {name!r}: give 1 to {_IFNAMSIZ - 1} bytes without space, '/', ':' and '%', e.g. tap0"
        )
    return name


def header_flags(kind: Literal["tap", "tun"], *, vnet_hdr: bool, packet_info: bool) -> DeviceFlags:
    """The flags that decide what stands in front of a frame or packet."""
    flags = DeviceFlags.TAP if kind == "tap" else DeviceFlags.TUN
    flags |= DeviceFlags.VNET_HDR if vnet_hdr else DeviceFlags(0)
    return flags | (DeviceFlags(0) if packet_info else DeviceFlags.NO_PI)


def open_device(
    kind: Literal["tap", "tun"],
    ifname: str,
    *,
    existing: TunFacts | None,
    owner: int | None = None,
    vnet_hdr: bool = False,
    packet_info: bool = False,
) -> OwnedFd:
    """Attach to a device that is there (`existing`), or make one that belongs to `owner`.

    `vnet_hdr`: with a virtio-net header, whose size `set_header` sets; `packet_info`: with `struct tun_pi` in front.
    HostError with the remedy.
    """
    flags = header_flags(kind, vnet_hdr=vnet_hdr, packet_info=packet_info)
    if existing is None:
        flags |= DeviceFlags.TUN_EXCL
    elif existing.multi_queue:
        flags |= DeviceFlags.MULTI_QUEUE
    what = f"{kind} device {ifname}"
    try:
        fd = OwnedFd(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        raise HostError(
            f"cannot open {_DEVICE} for {what}: {error.strerror}; {_open_remedy(error)}"
        ) from error
    try:
        _set_iff(fd, ifname, flags)
        if owner is not None and existing is None:
            fcntl.ioctl(fd.fileno(), _TUNSETOWNER, owner)
    except OSError as error:
        fd.close()
        raise HostError(
            f"cannot {'make' if existing is None else 'attach'} {what}: {error.strerror}; "
            f"{_attach_remedy(error, kind, ifname, existing)}"
        ) from error
    return fd


def attach(ifname: str, flags: DeviceFlags) -> OwnedFd:
    """Attach with just these flags. OSError, as the kernel has it."""
    fd = OwnedFd(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    try:
        _set_iff(fd, ifname, flags)
    except BaseException:
        fd.close()
        raise
    return fd


def header_length(fd: OwnedFd) -> int:
    """Bytes of the virtio-net header; a persistent device keeps it from one attachment to the next."""
    (length,) = struct.unpack("i", fcntl.ioctl(fd.fileno(), _TUNGETVNETHDRSZ, bytes(4)))
    return int(length)


def set_header(fd: OwnedFd, length: int) -> None:
    """Set the virtio-net header's length."""
    fcntl.ioctl(fd.fileno(), _TUNSETVNETHDRSZ, struct.pack("i", length))


def set_carrier(fd: OwnedFd, *, up: bool) -> None:
    """Let the device have a carrier, or none. The next to attach begins with one. OSError: before Linux 5.0 EINVAL."""
    fcntl.ioctl(fd.fileno(), _TUNSETCARRIER, struct.pack("i", up))


def set_offloads(fd: OwnedFd, *, wanted: bool) -> Offloads:
    """Let the host hand over frames with all the offloads that it knows, or none; returns which.

    Without a virtio-net header there must be none. A persistent device may have been left with offloads on.
    """
    for offer in _OFFERS if wanted else _OFFERS[-1:]:
        try:
            fcntl.ioctl(fd.fileno(), _TUNSETOFFLOAD, int(offer))
        except OSError as error:
            if error.errno != errno.EINVAL or not offer:
                raise
        else:
            return offer
    raise AssertionError("the last offer is none, which succeeds or raises")


def _set_iff(fd: OwnedFd, ifname: str, flags: DeviceFlags) -> None:
    fcntl.ioctl(fd.fileno(), _TUNSETIFF, struct.pack("16sH22x", ifname.encode(), flags))


def _open_remedy(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENODEV):
        return "load the module with `modprobe tun`, or give the container --device /dev/net/tun"
    return f"allow it with `chmod 0666 {_DEVICE}`, or run as root"


def _attach_remedy(error: OSError, kind: str, ifname: str, existing: TunFacts | None) -> str:
    match error.errno:
        case errno.EPERM if existing is not None:
            whose = "nobody" if existing.owner is None else f"user {existing.owner}"
            return (
                f"it belongs to {whose}: run as root, or have root make it anew with "
                f"`ip link del {ifname}` and `ip tuntap add dev {ifname} mode {kind} user $USER`"
            )
        case errno.EPERM:
            return (
                "it needs CAP_NET_ADMIN: run as root, or have root make it once with "
                f"`ip tuntap add dev {ifname} mode {kind} user $USER`"
            )
        case errno.EBUSY:
            return f"{_holder(ifname)} has it; end that program or take another name"
        case errno.EINVAL:
            return f"a device of that name exists and is no {kind}; take another name"
        case _:
            return "see `ip -d link`"


def _holder(ifname: str) -> str:
    """Who is attached to the device, for humans (fdinfo's "iff:" line, drivers/net/tun.c)."""
    for info in Path("/proc").glob("[0-9]*/fdinfo/*"):
        try:
            if f"\niff:\t{ifname}\n" in info.read_text(errors="replace"):
                pid = info.parts[2]
                return f"process {pid} ({Path(f'/proc/{pid}/comm').read_text(errors='replace').strip()})"
        except OSError:
            continue
    return "another program"
