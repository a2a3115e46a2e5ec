"""What follows from names: MAC addresses, and where a VM's and a port's sockets lie in the lab's folder.

Pure. Rule: the same names give the same answer for ever, since guests outlive the process that started them. Where the
lab's folder lies is control/place.py's.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from vbackend.errors import ConfigError
from vbackend.ports.values import UNIX_PATH_MAX

__all__ = [
    "VmPlace",
    "gateway_mac",
    "mac_address",
    "mac_octets",
    "port_socket",
    "socket_path",
    "station_mac",
    "tap_mac",
]


def mac_address(lab: str, vm: str, nic: str) -> str:
    """A NIC's address when the file gives none: 02:, locally administered, and 40 bits of SHA-256 of the names."""
    return bytes([2, *hashlib.sha256(f"{lab}/{vm}/{nic}".encode()).digest()[:5]]).hex(":")


def mac_octets(mac: str) -> bytes:
    """The six bytes of an address with colons."""
    return bytes.fromhex(mac.replace(":", ""))


def gateway_mac(lab: str, switch: str) -> str:
    """The address of a switch's NAT."""
    return mac_address(lab, switch, "nat")


def station_mac(lab: str, switch: str) -> str:
    """The address of a switch's services."""
    return mac_address(lab, switch, "services")


def tap_mac(lab: str, ifname: str) -> str:
    """The address of a tap that is made, when its PORT says none."""
    return mac_address(lab, "tap", ifname)


def socket_path(path: Path) -> Path:
    """The path, when a Unix socket can lie there. ConfigError: it is too long."""
    length = len(os.fsencode(path))
    if length > UNIX_PATH_MAX:
        raise ConfigError(
            f"socket {str(path)!r}: the path has {length} bytes, {UNIX_PATH_MAX} fit; "
            "set XDG_RUNTIME_DIR to a shorter path, or take shorter names"
        )
    return path


def port_socket(folder: Path, end: str) -> Path:
    """Where QEMU and vbackend meet for a VM's end, VM:NIC. `folder`: the lab's."""
    return socket_path(folder / "port" / f"{end}.sock")


@dataclass(frozen=True, slots=True)
class VmPlace:
    """What a VM has in the lab's folder."""

    folder: Path
    qmp: Path
    agent: Path
    console: Path
    console_log: Path
    qemu_log: Path
    command: Path  # QEMU's arguments, as started
    pid: Path

    @classmethod
    def of(cls, folder: Path, vm: str) -> Self:
        """`folder`: the lab's. ConfigError: its path is too long for sockets."""
        own = folder / "vm" / vm
        return cls(
            folder=own,
            qmp=socket_path(own / "qmp.sock"),
            agent=socket_path(own / "agent.sock"),
            console=socket_path(own / "console.sock"),
            console_log=own / "console.log",
            qemu_log=own / "qemu.log",
            command=own / "command",
            pid=own / "pid",
        )
