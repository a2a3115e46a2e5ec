"""One tun unit as a state machine, after NetBSD's if_tun.c 1.79: requests in, commands out. Pure.

              create                    open
    (none) ───────────► INITED ◄─────────────────► INITED+OPEN ───┐
       ▲                   │            close        ▲            │
       │      destroy      │                  create │            │ destroy
       ├───────────────────┘                         │            ▼
       └───────────────────────────────────────── OPEN, a zombie: its interface is gone
                           close

The queue, the packets and the counters are the engine's. It mirrors `SetState`, and does per packet what the rules
T, R and W say. Every method gives the commands in the order in which they are to be carried out; an error is an
`OSError` with the driver's errno, raised before anything is changed. Rule ids (C1, A2, ...) are those of
the conformance suite; `table.py` finds units by their number.
"""

import errno
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from vbackend.tun.vocabulary import (
    READY,
    TUNMTU,
    Address,
    Command,
    DeleteRoute,
    Detach,
    Free,
    Header,
    IfAddr,
    IfFlag,
    IfIoctl,
    Ioctl,
    NotifyPollers,
    PollCode,
    Purge,
    Reply,
    ResetInterface,
    SetState,
    Signal,
    System,
    TunFlag,
    Wake,
)

__all__ = ["Unit"]

_MTU_MIN: Final = 576  # if_tun.c tun_ioctl(), SIOCSIFMTU
_CLEAR, _IF_CLEAR = TunFlag(0), IfFlag(0)
_MODES: Final = IfFlag.POINTOPOINT | IfFlag.BROADCAST
# What SIOCSIFFLAGS may change: net/if.h, the flags that IFF_CANTCHANGE leaves
_CHANGEABLE: Final = IfFlag.UP | IfFlag.DEBUG | IfFlag.LINK0 | IfFlag.LINK1 | IfFlag.LINK2


@dataclass(slots=True, eq=False)
class Unit:
    """The softc of one unit. Everyone may read its attributes; they change through the methods only."""

    number: int
    system: System = "netbsd"
    flags: TunFlag = _CLEAR
    owner: int = 0  # of SIGIO: a process, a negated process group, 0 for nobody
    ticket: int = 0  # of the present open
    index: int = 0  # of the interface; a new one at each create
    if_flags: IfFlag = _IF_CLEAR
    mtu: int = TUNMTU
    tunmtu: int = TUNMTU
    addresses: list[IfAddr] = field(default_factory=list)
    groups: set[Address] = field(default_factory=set)  # multicast
    _codec: Header = "none"  # while PREPADDR is not set

    @property
    def name(self) -> str:
        return f"tun{self.number}"

    @property
    def ready(self) -> bool:
        """Packets may pass (rules T1 and R1)."""
        return self.flags & READY == READY

    @property
    def header(self) -> Header:
        """The link header of the device face."""
        return "sockaddr" if self.flags & TunFlag.PREPADDR else self._codec

    def state(self) -> SetState:
        return SetState(
            self.flags,
            self.if_flags,
            self.index,
            self.tunmtu,
            self.header,
            self.system,
            self.owner,
            self.ticket,
        )

    def signals(self, code: PollCode) -> list[Command]:
        """The SIGIO that an event brings (rules T6, D1, Q1): none without ASYNC or an owner."""
        return [Signal(self.owner, code)] if self.flags & TunFlag.ASYNC and self.owner else []

    # --- life cycle ---

    def attach(self, index: int, tunmtu: int) -> list[Command]:
        """A fresh interface, of a fresh unit or of a zombie (C1, C2: tunattach0()).

        Of a zombie everything on the device face stays, IASET and DSTADDR with it: the driver clears tun_if only.
        """
        self.index = index
        self.if_flags = IfFlag.POINTOPOINT
        self.mtu = self.tunmtu = tunmtu
        self.flags |= TunFlag.INITED
        return [ResetInterface(), self.state()]

    def detach(self) -> list[Command]:
        """The interface goes; an open device face makes a zombie of the unit (D1, D2: tun_clone_destroy())."""
        zombie = self.flags & TunFlag.OPEN
        self.flags &= ~TunFlag.INITED
        self.if_flags &= ~IfFlag.RUNNING
        self.addresses.clear()
        self.groups.clear()
        return [
            self.state(),
            Purge(),
            Wake(),
            *self.signals(PollCode.HUP),
            NotifyPollers(),
            Detach(),
            *([] if zombie else [Free()]),
        ]

    def open(self, ticket: int, header: Header | None) -> list[Command]:
        """Take the device face. `header`: None leaves what the last open had (O2, X3: tunopen()).

        EBUSY: somebody has it.
        """
        if self.flags & TunFlag.OPEN:
            raise OSError(errno.EBUSY, f"open {self.name}: its device face is open already; close that first")
        self.flags |= TunFlag.OPEN
        self.ticket = ticket
        if header is not None:
            self._set_header(header)
        return [self.state()]

    def close(self) -> list[Command]:
        """Give the device face back. Addresses and modes stay (X1 to X3: tunclose()).

        The driver leaves a reader asleep, since its descriptor cannot be closed under it; ours can, so it is woken.
        """
        zombie = not self.flags & TunFlag.INITED
        self.flags &= ~TunFlag.OPEN
        self.ticket = self.owner = 0
        if zombie:
            return [Free()]
        routes: list[Command] = []
        if self.if_flags & IfFlag.UP:
            self.if_flags &= ~IfFlag.UP
            if self.if_flags & IfFlag.RUNNING:
                host = bool(self.flags & TunFlag.DSTADDR)
                routes = [DeleteRoute(a, host) for a in self.addresses if isinstance(a.local, IPv4Address)]
        return [self.state(), Purge(), *routes, Wake(), NotifyPollers()]

    # --- the interface face: tun_ioctl() ---

    def ifioctl(self, request: int, value: object) -> list[Command]:
        """An interface ioctl by its number (A1 to A3); `value` is an address or an int, as the request wants it.

        ENXIO: the interface is gone; EINVAL: another request, or no int; EAFNOSUPPORT: not an address of IPv4 or
        IPv6; and those of the methods below.
        """
        self._require_interface()
        setters: dict[int, Callable[[Address], list[Command]]] = {
            IfIoctl.SIOCSIFADDR: self.set_address,
            IfIoctl.SIOCSIFDSTADDR: self.set_peer,
            IfIoctl.SIOCSIFBRDADDR: self.set_broadcast,
            IfIoctl.SIOCADDMULTI: self.add_multicast,
            IfIoctl.SIOCDELMULTI: self.remove_multicast,
        }
        numbers: dict[int, Callable[[int], list[Command]]] = {
            IfIoctl.SIOCSIFMTU: self.set_mtu,
            IfIoctl.SIOCSIFFLAGS: self.set_flags,
        }
        if (set_address := setters.get(request)) is not None:
            return set_address(self._ip(value))
        if (set_number := numbers.get(request)) is not None and isinstance(value, int):
            return set_number(value)
        raise OSError(errno.EINVAL, f"ioctl {request:#x} on {self.name} with {value!r}: not known, or not so")

    def set_address(self, local: Address) -> list[Command]:
        """Change the first address of its family, or give the first one; up and running it is then (A1)."""
        self._change_first(local, lambda first: replace(first, local=local))
        return self._init()

    def set_peer(self, peer: Address) -> list[Command]:
        """Set the peer of the first address of its family; without one the local address is zero (A1)."""
        self._change_first(peer, lambda first: replace(first, peer=peer))
        return self._init()

    def add_address(self, address: IfAddr) -> list[Command]:
        """One address more, in place of an equal one: SIOCAIFADDR, which the driver sees as SIOCSIFADDR (A1)."""
        self._require_interface()
        self.addresses[:] = [a for a in self.addresses if a.local != address.local] + [address]
        return self._init()

    def set_broadcast(self, broadcast: Address) -> list[Command]:
        """Changes nothing but the address (A1). EADDRNOTAVAIL: none to change; EAFNOSUPPORT: not IPv4."""
        self._require_interface()
        if not isinstance(broadcast, IPv4Address):
            raise OSError(
                errno.EAFNOSUPPORT, f"broadcast {broadcast} on {self.name}: only IPv4 has broadcast"
            )
        if not any(isinstance(a.local, IPv4Address) for a in self.addresses):
            raise OSError(errno.EADDRNOTAVAIL, f"broadcast {broadcast} on {self.name}: set an address first")
        self._change_first(broadcast, lambda first: replace(first, broadcast=broadcast))
        return []

    def remove_address(self, local: Address) -> list[Command]:
        """SIOCDIFADDR, which the driver is not told: IASET stands until the next set. EADDRNOTAVAIL: not there."""
        self._require_interface()
        left = [a for a in self.addresses if a.local != local]
        if len(left) == len(self.addresses):
            raise OSError(errno.EADDRNOTAVAIL, f"remove {local} from {self.name}: it has no such address")
        self.addresses[:] = left
        return []

    def set_mtu(self, mtu: int) -> list[Command]:
        """EINVAL: not from 576 to TUNMTU (A2)."""
        self._require_interface()
        if not _MTU_MIN <= mtu <= self.tunmtu:
            raise OSError(errno.EINVAL, f"MTU {mtu} on {self.name}: give {_MTU_MIN} to {self.tunmtu}")
        self.mtu = mtu
        return []

    def add_multicast(self, group: Address) -> list[Command]:
        """Join a group, of IPv4 or (our departure) of IPv6 (A3)."""
        self._require_interface()
        self.groups.add(self._ip(group))
        return []

    def remove_multicast(self, group: Address) -> list[Command]:
        """Leave a group, which need not have been joined (A3)."""
        self._require_interface()
        self.groups.discard(self._ip(group))
        return []

    def set_flags(self, flags: int) -> list[Command]:
        """Take UP, DEBUG and LINK0 to LINK2, leave the rest (A3); down purges if_snd (if.c if_down())."""
        self._require_interface()
        before = self.if_flags
        self.if_flags = before & ~_CHANGEABLE | IfFlag(flags & _CHANGEABLE)
        down = before & ~self.if_flags & IfFlag.UP
        return [self.state(), *([Purge()] if down else [])]

    # --- the device face: tunioctl() ---

    def ioctl(self, request: int, value: int = 0, *, first_len: int = 0, owner_errno: int = 0) -> Reply:
        """A device ioctl (I1), but for the two of the debug flag, which is the driver's.

        `first_len`: bytes of the first packet in if_snd. `owner_errno`: what the host says of `value` as an owner:
        0, ESRCH, EPERM. ENXIO: the interface is gone; ENOTTY: another request; EBUSY, EINVAL: see TUNSIFMODE.
        """
        self._require_interface()
        match request:
            case Ioctl.TUNSIFMODE:
                self._set_ifmode(value)
            case Ioctl.TUNSLMODE:
                self._set_header("sockaddr" if value else "none")
            case Ioctl.FIONBIO:
                self._set_flag(TunFlag.NBIO, value)
            case Ioctl.FIOASYNC:
                self._set_flag(TunFlag.ASYNC, value)
            case Ioctl.FIONREAD:
                return Reply(first_len, [])
            case Ioctl.FIOSETOWN | Ioctl.TIOCSPGRP:
                self._set_owner(request, value, owner_errno)
            case Ioctl.FIOGETOWN:
                return Reply(self.owner, [])
            case Ioctl.TIOCGPGRP:
                return Reply(-self.owner, [])
            case _:
                raise OSError(
                    errno.ENOTTY, f"ioctl {request:#x} on {self.name}: tun units know no such request"
                )
        return Reply(0, [self.state()])

    def _set_ifmode(self, value: int) -> None:
        """EINVAL: not exactly one of POINTOPOINT and BROADCAST; EBUSY: while UP. Other bits than theirs and
        MULTICAST are ignored, where the driver takes them all into if_flags."""
        wanted = IfFlag(value & (_MODES | IfFlag.MULTICAST))
        if wanted & _MODES not in (IfFlag.POINTOPOINT, IfFlag.BROADCAST):
            raise OSError(
                errno.EINVAL, f"TUNSIFMODE {value:#x} on {self.name}: POINTOPOINT or BROADCAST, one of them"
            )
        if self.if_flags & IfFlag.UP:
            raise OSError(errno.EBUSY, f"TUNSIFMODE {value:#x} on {self.name}: it is up; set it down first")
        self.if_flags = self.if_flags & ~(_MODES | IfFlag.MULTICAST) | wanted

    def _set_owner(self, request: int, value: int, owner_errno: int) -> None:
        """kern_descrip.c fsetown(): FIOSETOWN takes a process or a negated group, TIOCSPGRP a group."""
        if request == Ioctl.TIOCSPGRP and value < 0:
            raise OSError(
                errno.EINVAL, f"TIOCSPGRP {value} on {self.name}: give a process group, or 0 for nobody"
            )
        if value and owner_errno:
            raise OSError(owner_errno, f"SIGIO of {self.name} to {value}: the host refuses it as an owner")
        self.owner = -value if request == Ioctl.TIOCSPGRP else value

    def _set_header(self, header: Header) -> None:
        self._set_flag(TunFlag.PREPADDR, header == "sockaddr")
        self._codec = "none" if header == "sockaddr" else header

    def _set_flag(self, flag: TunFlag, on: int) -> None:
        self.flags = self.flags | flag if on else self.flags & ~flag

    # --- shared ---

    def _require_interface(self) -> None:
        if not self.flags & TunFlag.INITED:
            raise OSError(errno.ENXIO, f"{self.name}: its interface was destroyed; create it again")

    def _init(self) -> list[Command]:
        """Up and running, with IASET and DSTADDR as the addresses have it now (A1: tuninit())."""
        self.if_flags |= IfFlag.UP | IfFlag.RUNNING
        peers = [a.peer for a in self.addresses] if self.if_flags & IfFlag.POINTOPOINT else []
        self._set_flag(TunFlag.IASET, any(int(a.local) for a in self.addresses))
        self._set_flag(TunFlag.DSTADDR, any(peer is not None and int(peer) for peer in peers))
        return [self.state()]

    def _change_first(self, like: Address, change: Callable[[IfAddr], IfAddr]) -> None:
        """Change the first address of the family of `like`; a zero one is made when there is none."""
        self._require_interface()
        for place, address in enumerate(self.addresses):
            if address.local.version == like.version:
                self.addresses[place] = change(address)
                return
        self.addresses.append(change(IfAddr(type(like)(0))))

    def _ip(self, value: object) -> Address:
        if isinstance(value, IPv4Address | IPv6Address):
            return value
        raise OSError(errno.EAFNOSUPPORT, f"{value!r} on {self.name}: give an IPv4 or IPv6 address")
