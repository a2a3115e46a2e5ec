"""The words of a tun unit: its flags, the requests it takes, and the commands it gives.

Numbers are NetBSD's, of the time of if_tun.c 1.79: net/if_tun.h, net/if.h, sys/filio.h, sys/ttycom.h, sys/sockio.h.
"""

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal, NamedTuple, get_args

from vbackend.errors import ConfigError

__all__ = [
    "HEADERS",
    "READY",
    "SYSTEMS",
    "TUNMTU",
    "TUNMTU_MAX",
    "Address",
    "Command",
    "DeleteRoute",
    "Detach",
    "Free",
    "Header",
    "IfAddr",
    "IfFlag",
    "IfIoctl",
    "Ioctl",
    "NotifyPollers",
    "PollCode",
    "Purge",
    "Reply",
    "ResetInterface",
    "SetState",
    "Signal",
    "System",
    "TunFlag",
    "Wake",
]

TUNMTU: Final = 1500  # net/if_tun.h: the longest packet that may be written
TUNMTU_MAX: Final = 65535  # the longest IPv4 packet

Address = IPv4Address | IPv6Address
Header = Literal["none", "null", "loop", "sockaddr", "pi", "ether"]  # see headers.py
System = Literal["netbsd", "freebsd", "darwin", "linux"]  # whose address family numbers
HEADERS: Final[tuple[Header, ...]] = get_args(Header)
SYSTEMS: Final[tuple[System, ...]] = get_args(System)


# --- flags ---


class TunFlag(IntFlag):
    """State of a unit (net/if_tun.h, tun_flags)."""

    OPEN = 0x1  # the device face is open
    INITED = 0x2  # the interface exists
    IASET = 0x8  # a non-zero local address is set
    DSTADDR = 0x10  # a non-zero peer address is set
    RWAIT = 0x40  # a reader sleeps; only the engine knows, so a `Unit` never has it
    ASYNC = 0x80  # the owner gets SIGIO
    NBIO = 0x100  # a read of an empty queue does not sleep
    PREPADDR = 0x200  # packets have a sockaddr in front


READY: Final = TunFlag.OPEN | TunFlag.INITED | TunFlag.IASET  # net/if_tun.h, TUN_READY: all three


class IfFlag(IntFlag):
    """Flags of an interface (net/if.h, if_flags), as far as a unit has them."""

    UP = 0x1
    BROADCAST = 0x2
    DEBUG = 0x4
    POINTOPOINT = 0x10
    RUNNING = 0x40
    LINK0 = 0x1000
    LINK1 = 0x2000
    LINK2 = 0x4000
    MULTICAST = 0x8000


@dataclass(frozen=True, slots=True)
class IfAddr:
    """One address of an interface. ConfigError: `local` and the others are of different families."""

    local: Address
    peer: Address | None = None
    broadcast: IPv4Address | None = None

    def __post_init__(self) -> None:
        for name, other in (("peer", self.peer), ("broadcast", self.broadcast)):
            if other is not None and other.version != self.local.version:
                raise ConfigError(
                    f"{name} {other} of {self.local} is of another family: give IPv{self.local.version}"
                )


# --- requests ---

_OUT, _IN = 0x4000_0000, 0x8000_0000  # sys/ioccom.h: IOC_OUT, IOC_IN
_INT, _IFREQ = 4, 32  # sizeof(int), sizeof(struct ifreq)


def _ioc(direction: int, group: str, number: int, size: int) -> int:
    """sys/ioccom.h, _IOC()."""
    return direction | size << 16 | ord(group) << 8 | number


class Ioctl(IntEnum):
    """Requests on the device face; each has one `int` (rule I1)."""

    TUNSLMODE = _ioc(_IN, "t", 87, _INT)
    TUNSIFMODE = _ioc(_IN, "t", 88, _INT)
    TUNGDEBUG = _ioc(_OUT, "t", 89, _INT)
    TUNSDEBUG = _ioc(_IN, "t", 90, _INT)
    TIOCSPGRP = _ioc(_IN, "t", 118, _INT)
    TIOCGPGRP = _ioc(_OUT, "t", 119, _INT)
    FIOGETOWN = _ioc(_OUT, "f", 123, _INT)
    FIOSETOWN = _ioc(_IN, "f", 124, _INT)
    FIOASYNC = _ioc(_IN, "f", 125, _INT)
    FIONBIO = _ioc(_IN, "f", 126, _INT)
    FIONREAD = _ioc(_OUT, "f", 127, _INT)


class IfIoctl(IntEnum):
    """Requests on the interface face that the driver knows (rules A1 to A3)."""

    SIOCSIFADDR = _ioc(_IN, "i", 12, _IFREQ)
    SIOCSIFDSTADDR = _ioc(_IN, "i", 14, _IFREQ)
    SIOCSIFFLAGS = _ioc(_IN, "i", 16, _IFREQ)
    SIOCSIFBRDADDR = _ioc(_IN, "i", 19, _IFREQ)
    SIOCADDMULTI = _ioc(_IN, "i", 49, _IFREQ)
    SIOCDELMULTI = _ioc(_IN, "i", 50, _IFREQ)
    SIOCSIFMTU = _ioc(_IN, "i", 127, _IFREQ)


# --- commands ---


@dataclass(frozen=True, slots=True)
class SetState:
    """Mirror all of this: it is what the packet path of the unit depends on."""

    flags: TunFlag
    if_flags: IfFlag
    index: int  # of the interface (if_index): a sleeper that wakes to another one has lost its unit (rule R4)
    tunmtu: int  # bytes, without the header
    header: Header
    system: System
    owner: int  # who gets SIGIO: a process, a negated process group, 0 for nobody
    ticket: int  # of the open that may read and write, 0 for none


@dataclass(frozen=True, slots=True)
class Purge:
    """Drop and count everything in if_snd (IF_PURGE)."""


@dataclass(frozen=True, slots=True)
class ResetInterface:
    """The interface is new: all counters 0, nothing queued in either direction."""


@dataclass(frozen=True, slots=True)
class Wake:
    """Wake the reader that sleeps, if one does."""


@dataclass(frozen=True, slots=True)
class NotifyPollers:
    """Let everyone who polls look again (selnotify)."""


class PollCode(IntEnum):
    """si_code of a SIGIO (sys/siginfo.h)."""

    IN = 1
    OUT = 2
    HUP = 6


@dataclass(frozen=True, slots=True)
class Signal:
    """Send SIGIO to a process, or to the process group of the negated number."""

    owner: int
    code: PollCode


@dataclass(frozen=True, slots=True)
class DeleteRoute:
    """Delete the route that came with an address: to its peer (`host`) or to its network."""

    address: IfAddr
    host: bool


@dataclass(frozen=True, slots=True)
class Detach:
    """The interface is gone, and captures of it end (bpfdetach, if_detach)."""


@dataclass(frozen=True, slots=True)
class Free:
    """Nothing is left of the unit."""


Command = SetState | Purge | ResetInterface | Wake | NotifyPollers | Signal | DeleteRoute | Detach | Free


class Reply(NamedTuple):
    """Of a device ioctl: what a getter got (a setter: 0), and what is to be done."""

    value: int
    commands: list[Command]
