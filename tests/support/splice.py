"""Joins the device face of a unit, `unit:PATH`, to a Linux tun device: what a VPN or a user-space stack would do.

    ip netns exec lab python splice.py PATH IFNAME

The device is of the namespace it runs in, and goes with it. Standard library only. It prints "joined" and ends with the
unit. `header=none` on the unit: one message, one read or write of the device, and one packet are the same bytes.
"""

import fcntl
import os
import select
import socket
import struct
import sys
from collections.abc import Callable
from typing import Final

__all__ = ["main", "open_tun", "splice"]

_TUNSETIFF: Final = 0x400454CA
_IFF_TUN_NO_PI: Final = 0x0001 | 0x1000  # linux/if_tun.h
_LARGEST: Final = 65_536


def open_tun(ifname: str) -> int:
    """A descriptor of a new tun device without packet information."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", ifname.encode(), _IFF_TUN_NO_PI))
    except BaseException:
        os.close(fd)
        raise
    return fd


def splice(unit: socket.socket, device: int, failed: Callable[[OSError], None]) -> None:
    """Carry packets both ways until the unit ends. `failed`: told what the device refuses; the packet is lost."""
    watched: list[int] = [unit.fileno(), device]
    while True:
        readable, _, _ = select.select(watched, [], [])
        if device in readable:
            unit.send(os.read(device, _LARGEST))
        if unit.fileno() in readable:
            packet = unit.recv(_LARGEST)
            if not packet:
                return
            try:
                os.write(device, packet)
            except OSError as error:
                failed(error)


def main(path: str, ifname: str) -> None:
    device = open_tun(ifname)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as unit:
            unit.connect(path)
            print("joined", flush=True)
            splice(unit, device, lambda error: print(error, file=sys.stderr))
    finally:
        os.close(device)


if __name__ == "__main__":
    main(*sys.argv[1:])
