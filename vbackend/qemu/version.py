"""Which QEMU is installed, and what its version means for network cards.

`parse_version` is pure; `qemu_version` runs the binary. What differs between versions is asked for here by name,
so that no other module compares numbers.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from enum import Enum
from typing import Final, assert_never

from vbackend.errors import HostError

__all__ = ["QEMU", "QemuVersion", "Reconnect", "parse_version", "qemu_version"]

QEMU: Final = "qemu-system-x86_64"
_PATIENCE_S: Final = 10.0
_VERSION: Final = re.compile(r"^QEMU emulator version (\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?", re.MULTILINE)


class Reconnect(Enum):
    """How a stream netdev that dials is told to dial again (qapi/net.json, NetdevStreamOptions)."""

    NEVER = "never"
    SECONDS = "reconnect"
    MILLISECONDS = "reconnect-ms"


@dataclass(frozen=True, slots=True, order=True)
class QemuVersion:
    major: int
    minor: int
    micro: int = 0

    @property
    def has_stream(self) -> bool:
        """-netdev stream and dgram; before there was only -netdev socket."""
        return self >= QemuVersion(7, 2)

    @property
    def reconnect(self) -> Reconnect:
        if self >= QemuVersion(9, 2):
            return Reconnect.MILLISECONDS
        return Reconnect.SECONDS if self >= QemuVersion(8, 0) else Reconnect.NEVER

    @property
    def chardev_reconnect(self) -> Reconnect:
        """The same of a socket chardev, which always could (qapi/char.json, ChardevSocket)."""
        return max(self.reconnect, Reconnect.SECONDS, key=list(Reconnect).index)

    @property
    def vhost_user_needs_intx(self) -> bool:
        """Whether vhost-user with MSI-X crashes it under TCG: 7.2 does, 10.0 does not; between is untried."""
        return self < QemuVersion(10, 0)

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.micro}"

    def described(self) -> str:
        """The version and what it means for stream ports, in words for humans."""
        if not self.has_stream:
            return f"{self}: too old for stream: and dgram: ports, only socket: ones"
        match self.reconnect:
            case Reconnect.NEVER:
                return f"{self}: does not connect again by itself; use 'dial' ports to survive a restart of vbackend"
            case Reconnect.SECONDS | Reconnect.MILLISECONDS:
                return f"{self}: connects again by itself ({self.reconnect.value}=)"
            case _:
                assert_never(self.reconnect)


def parse_version(text: str) -> QemuVersion:
    """The version in what `qemu-system-* --version` prints. ValueError: it is not in there."""
    found = _VERSION.search(text)
    if found is None:
        raise ValueError(f"no QEMU version in {text[:80]!r}")
    major, minor, micro = found.groups(default="0")
    return QemuVersion(int(major), int(minor), int(micro))


def qemu_version(binary: str = QEMU) -> QemuVersion:
    """Ask a binary, given by name or path. HostError: there is none, or it is no QEMU."""
    path = shutil.which(binary)
    if path is None:
        raise HostError(
            f"there is no program {binary!r}; install it (Debian: qemu-system-x86), or give its path"
        )
    try:
        done = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_S,
            check=False,
        )
        return parse_version(done.stdout)
    except subprocess.TimeoutExpired:
        why = f"it did not end within {_PATIENCE_S:.0f} s"
    except OSError as error:
        why = str(error.strerror)
    except ValueError as error:
        why = str(error)
    raise HostError(f"cannot ask {path} for its version: {why}; give the path of a qemu-system-* program")
