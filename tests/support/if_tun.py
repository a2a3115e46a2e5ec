"""NetBSD's if_tun.c 1.79 in Python, function by function and in its manner: a naive twin for tests.

Functions give an errno (0 for success), a dev is a unit number, and errors of the caller's are not looked for. What
is not the driver's but the stack's around it (in_control, if_down, fsetown) is at the foot. `V1:` to `V6:` mark the
departures of vbackend, `vbackend:` those without a number.
"""

import errno
import select
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "AF_INET",
    "AF_INET6",
    "AF_UNSPEC",
    "EVFILT_READ",
    "EVFILT_WRITE",
    "POLLIN_ANY",
    "POLLOUT_ANY",
    "TUN_IASET",
    "TUN_INITED",
    "TUN_OPEN",
    "TUN_READY",
    "Driver",
    "Ifaddr",
    "Ifnet",
    "Ifqueue",
    "Sockaddr",
    "Softc",
    "Uio",
]

TUN_OPEN, TUN_INITED, TUN_IASET, TUN_DSTADDR = 0x1, 0x2, 0x8, 0x10
TUN_RWAIT, TUN_ASYNC, TUN_NBIO, TUN_PREPADDR = 0x40, 0x80, 0x100, 0x200
TUN_READY = TUN_OPEN | TUN_INITED | TUN_IASET
TUNMTU = 1500
IFF_UP, IFF_BROADCAST, IFF_DEBUG, IFF_POINTOPOINT = 0x1, 0x2, 0x4, 0x10
IFF_RUNNING, IFF_LINK012, IFF_MULTICAST = 0x40, 0x7000, 0x8000
AF_UNSPEC, AF_INET, AF_INET6 = 0, 2, 24
IFQ_MAXLEN = 256
SIZEOF_SOCKADDR = 16
POLLIN_ANY = select.POLLIN | select.POLLRDNORM
POLLOUT_ANY = select.POLLOUT | select.POLLWRNORM
EVFILT_READ, EVFILT_WRITE = 0, 1


@dataclass
class Sockaddr:
    sa_family: int
    data: bytes  # the whole structure, as it is in memory


@dataclass
class Ifaddr:
    sa_family: int
    ifa_addr: int  # the address as a number
    ifa_dstaddr: int = 0
    ifa_broadaddr: int = 0


@dataclass
class Ifqueue:
    ifq_maxlen: int = IFQ_MAXLEN
    ifq_drops: int = 0
    mbufs: list[bytes] = field(default_factory=list)

    def full(self) -> bool:
        return len(self.mbufs) >= self.ifq_maxlen


@dataclass
class Ifnet:
    if_xname: str = ""
    if_index: int = 0
    if_flags: int = 0
    if_mtu: int = 0
    if_collisions: int = 0
    if_ierrors: int = 0
    if_oerrors: int = 0
    if_ipackets: int = 0
    if_opackets: int = 0
    if_ibytes: int = 0
    if_obytes: int = 0
    if_snd: Ifqueue = field(default_factory=Ifqueue)
    if_addrlist: list[Ifaddr] = field(default_factory=list)
    tunmtu: int = TUNMTU  # vbackend: each unit has its own
    if_bpf: list[tuple[int, bytes]] = field(default_factory=list)  # what a capture was handed


@dataclass
class Softc:
    tun_unit: int
    tun_flags: int = 0
    tun_pgid: int = 0
    tun_if: Ifnet = field(default_factory=Ifnet)


@dataclass
class Uio:
    """A caller's buffer: `base` is what a write brings, or what a read has got; `resid` counts down."""

    resid: int
    base: bytes = b""

    def move_in(self, size: int) -> bytes:
        moved, self.base = self.base[:size], self.base[size:]
        self.resid -= len(moved)
        return moved

    def move_out(self, data: bytes) -> None:
        moved = data[: self.resid]
        self.base += moved
        self.resid -= len(moved)


class Driver:
    def __init__(self) -> None:
        self.tundebug = 0
        self.tun_softc_list: list[Softc] = []
        self.tunz_softc_list: list[Softc] = []
        self.ipintrq = Ifqueue()
        self.ip6intrq = Ifqueue()
        self.if_index = 0
        self.happened: list[
            tuple[Any, ...]
        ] = []  # wakeup, selnotify, fownsignal, rtinit, bpfdetach, if_detach, free

    def tun_find_unit(self, dev: int) -> Softc | None:
        for tp in self.tun_softc_list:
            if tp.tun_unit == dev:
                return tp
        return None

    def tun_find_zunit(self, unit: int) -> Softc | None:
        for tp in self.tunz_softc_list:
            if tp.tun_unit == unit:
                self.tunz_softc_list.remove(tp)
                return tp
        return None

    def tun_clone_create(self, unit: int, tunmtu: int = TUNMTU) -> int:
        tp = self.tun_find_zunit(unit)
        if tp is None:
            tp = Softc(unit)
        else:
            tp.tun_if = Ifnet()
        tp.tun_if.if_xname = f"tun{unit}"
        self.tunattach0(tp, tunmtu)
        tp.tun_flags |= TUN_INITED
        self.tun_softc_list.insert(0, tp)
        return 0

    def tunattach0(self, tp: Softc, tunmtu: int) -> None:
        ifp = tp.tun_if
        ifp.if_mtu = ifp.tunmtu = tunmtu
        ifp.if_flags = IFF_POINTOPOINT
        self.if_index += 1
        ifp.if_index = self.if_index

    def tun_clone_destroy(self, tp: Softc) -> int:
        ifp = tp.tun_if
        zombie = False
        self.tun_softc_list.remove(tp)
        if tp.tun_flags & TUN_OPEN:
            zombie = True
            tp.tun_flags &= ~TUN_INITED
            self.tunz_softc_list.insert(0, tp)
        ifp.if_snd.mbufs.clear()
        ifp.if_flags &= ~IFF_RUNNING
        if tp.tun_flags & TUN_RWAIT:
            tp.tun_flags &= ~TUN_RWAIT
            self.happened.append(("wakeup",))
        if tp.tun_flags & TUN_ASYNC and tp.tun_pgid:
            self.happened.append(("fownsignal", tp.tun_pgid, "POLL_HUP"))
        self.happened.append(("selnotify",))
        self.happened.append(("bpfdetach",))
        self.happened.append(("if_detach",))
        ifp.if_addrlist.clear()
        if not zombie:
            self.happened.append(("free",))
        return 0

    def tunopen(self, dev: int, suser: bool) -> int:
        if not suser:
            return errno.EPERM
        tp = self.tun_find_unit(dev)
        if tp is None:
            self.tun_clone_create(dev)
            tp = self.tun_find_unit(dev)
            if tp is None:
                return errno.ENXIO
        if tp.tun_flags & TUN_OPEN:
            return errno.EBUSY
        tp.tun_flags |= TUN_OPEN
        return 0

    def tunclose(self, dev: int) -> int:
        if self.tun_find_zunit(dev) is not None:
            self.happened.append(("free",))
            return 0
        tp = self.tun_find_unit(dev)
        if tp is None:
            return 0
        ifp = tp.tun_if
        tp.tun_flags &= ~TUN_OPEN
        ifp.if_snd.mbufs.clear()
        if ifp.if_flags & IFF_UP:
            self.if_down(ifp)
            if ifp.if_flags & IFF_RUNNING:
                for ifa in ifp.if_addrlist:
                    if ifa.sa_family == AF_INET:
                        self.happened.append(("rtinit", ifa.ifa_addr, bool(tp.tun_flags & TUN_DSTADDR)))
        tp.tun_pgid = 0
        self.happened.append(("selnotify",))
        return 0

    def tuninit(self, tp: Softc) -> None:
        ifp = tp.tun_if
        ifp.if_flags |= IFF_UP | IFF_RUNNING
        tp.tun_flags &= ~(TUN_IASET | TUN_DSTADDR)
        for ifa in ifp.if_addrlist:
            if ifa.sa_family == AF_INET:
                if ifa.ifa_addr != 0:
                    tp.tun_flags |= TUN_IASET
                if ifp.if_flags & IFF_POINTOPOINT and ifa.ifa_dstaddr != 0:
                    tp.tun_flags |= TUN_DSTADDR
            if ifa.sa_family == AF_INET6:
                if ifa.ifa_addr != 0:
                    tp.tun_flags |= TUN_IASET
                if ifp.if_flags & IFF_POINTOPOINT:
                    if ifa.ifa_dstaddr != 0:
                        tp.tun_flags |= TUN_DSTADDR
                else:
                    tp.tun_flags &= ~TUN_DSTADDR

    def tun_ioctl(self, tp: Softc, cmd: str, data: int) -> int:
        """`data`: the MTU, the family of a multicast address."""
        ifp = tp.tun_if
        match cmd:
            case "SIOCSIFADDR" | "SIOCSIFDSTADDR":
                self.tuninit(tp)
            case "SIOCSIFBRDADDR" | "SIOCSIFFLAGS":
                pass
            case "SIOCSIFMTU":
                if data > ifp.tunmtu or data < 576:
                    return errno.EINVAL
                ifp.if_mtu = data
            case "SIOCADDMULTI" | "SIOCDELMULTI":
                if data not in (AF_INET, AF_INET6):  # vbackend: the driver has IPv4 only
                    return errno.EAFNOSUPPORT
            case _:
                return errno.EINVAL
        return 0

    def tun_output(self, tp: Softc, m0: bytes, dst: Sockaddr) -> int:
        ifp = tp.tun_if
        if tp.tun_flags & TUN_READY != TUN_READY:
            return errno.EHOSTDOWN  # V1: the driver says 0, here and below
        ifp.if_bpf.append((dst.sa_family, m0))
        match dst.sa_family:
            case 2 | 24 | 0:
                if dst.sa_family != AF_UNSPEC and tp.tun_flags & TUN_PREPADDR:
                    m0 = dst.data + m0
                if ifp.if_snd.full():
                    ifp.if_snd.ifq_drops += 1
                    ifp.if_collisions += 1
                    return errno.ENOBUFS  # V2: EAFNOSUPPORT
                ifp.if_snd.mbufs.append(m0)
                ifp.if_opackets += 1
                ifp.if_obytes += len(m0)
            case _:
                return errno.EAFNOSUPPORT
        if tp.tun_flags & TUN_RWAIT:
            tp.tun_flags &= ~TUN_RWAIT
            self.happened.append(("wakeup",))
        if tp.tun_flags & TUN_ASYNC and tp.tun_pgid:
            self.happened.append(("fownsignal", tp.tun_pgid, "POLL_IN"))
        self.happened.append(("selnotify",))
        return 0

    def tunioctl(self, dev: int, cmd: str, data: list[int], host: int = 0) -> int:
        """`data`: one int, which getters set. `host`: what pfind and pgid_in_session say of a new owner."""
        tp = self.tun_find_unit(dev)
        if tp is None:
            return errno.ENXIO
        match cmd:
            case "TUNSDEBUG":
                self.tundebug = data[0]
            case "TUNGDEBUG":
                data[0] = self.tundebug
            case "TUNSIFMODE":
                match data[0] & (IFF_POINTOPOINT | IFF_BROADCAST):
                    case 0x10 | 0x2:
                        if tp.tun_if.if_flags & IFF_UP:
                            return errno.EBUSY
                        tp.tun_if.if_flags &= ~(IFF_BROADCAST | IFF_POINTOPOINT | IFF_MULTICAST)
                        # vbackend: the driver takes every bit of data
                        tp.tun_if.if_flags |= data[0] & (IFF_BROADCAST | IFF_POINTOPOINT | IFF_MULTICAST)
                    case _:
                        return errno.EINVAL
            case "TUNSLMODE":
                self.set_flag(tp, TUN_PREPADDR, data[0])
            case "FIONBIO":
                self.set_flag(tp, TUN_NBIO, data[0])
            case "FIOASYNC":
                self.set_flag(tp, TUN_ASYNC, data[0])
            case "FIONREAD":
                data[0] = len(tp.tun_if.if_snd.mbufs[0]) if tp.tun_if.if_snd.mbufs else 0
            case "TIOCSPGRP" | "FIOSETOWN":
                return self.fsetown(tp, cmd, data[0], host)
            case "TIOCGPGRP":
                data[0] = -tp.tun_pgid
            case "FIOGETOWN":
                data[0] = tp.tun_pgid
            case _:
                return errno.ENOTTY
        return 0

    def tunread(self, dev: int, uio: Uio) -> int | None:
        """None: it would go to sleep, and has set RWAIT. Call it again after the wakeup."""
        tp = self.tun_find_unit(dev)
        if tp is None:
            return errno.ENXIO
        if tp.tun_flags & TUN_READY != TUN_READY:
            return errno.EHOSTDOWN
        tp.tun_flags &= ~TUN_RWAIT
        if not tp.tun_if.if_snd.mbufs:
            if tp.tun_flags & TUN_NBIO:
                return errno.EWOULDBLOCK
            tp.tun_flags |= TUN_RWAIT
            return None
        uio.move_out(tp.tun_if.if_snd.mbufs.pop(0))
        return 0

    def tunwrite(self, dev: int, uio: Uio) -> int:
        tp = self.tun_find_unit(dev)
        if tp is None:
            return errno.ENXIO
        ifp = tp.tun_if
        if tp.tun_flags & TUN_PREPADDR:
            if uio.resid < SIZEOF_SOCKADDR:
                return errno.EIO
            dst = uio.move_in(SIZEOF_SOCKADDR)
            if dst[0] > SIZEOF_SOCKADDR:
                uio.move_in(dst[0] - SIZEOF_SOCKADDR)
            # vbackend: the IPv6 numbers of the other systems are read too
            sa_family = AF_INET6 if dst[1] in (10, 28, 30) else dst[1]
        elif uio.resid == 0:
            ifp.if_ierrors += 1
            return errno.EIO  # V5, V6: no packet, and no nibble to look at
        else:
            sa_family = {4: AF_INET, 6: AF_INET6}.get(uio.base[0] >> 4, -1)  # V6: AF_INET
        if uio.resid > ifp.tunmtu:
            return errno.EIO
        match sa_family:
            case 2:
                ifq = self.ipintrq
            case 24:
                ifq = self.ip6intrq  # V3: the driver lacks the break
            case _:
                return errno.EAFNOSUPPORT
        tlen = uio.resid
        if tlen == 0:
            ifp.if_ierrors += 1
            return errno.EIO  # V5: a null pointer is looked through
        top = uio.move_in(tlen)
        ifp.if_bpf.append((sa_family, top))  # V4: AF_INET
        if tp.tun_flags & TUN_INITED == 0:
            return errno.ENXIO
        if ifq.full():
            ifq.ifq_drops += 1
            ifp.if_collisions += 1
            return errno.ENOBUFS
        ifq.mbufs.append(top)
        ifp.if_ipackets += 1
        ifp.if_ibytes += tlen
        return 0

    def tunpoll(self, dev: int, events: int) -> int:
        revents = 0
        tp = self.tun_find_unit(dev)
        if tp is None:
            return 0
        if tp.tun_if.if_snd.mbufs:
            revents |= events & POLLIN_ANY
        return revents | events & POLLOUT_ANY

    def tunkqfilter(self, dev: int, kn_filter: int) -> tuple[int, bool, int]:
        """(refused, whether it fires, kn_data); nothing is attached when the unit is gone."""
        tp = self.tun_find_unit(dev)
        if tp is None:
            return 0, False, 0
        match kn_filter:
            case 0:
                mbufs = tp.tun_if.if_snd.mbufs
                return 0, bool(mbufs), len(mbufs[0]) if mbufs else 0
            case 1:
                return 0, True, 0
            case _:
                return 1, False, 0

    # --- the stack around it ---

    def in_control(self, tp: Softc, cmd: str, family: int, address: int) -> int:
        """netinet/in.c: sets an address of the first one of the family, then tells the driver."""
        found = [ifa for ifa in tp.tun_if.if_addrlist if ifa.sa_family == family]
        if not found and cmd == "SIOCSIFBRDADDR":
            return errno.EADDRNOTAVAIL
        if not found:
            found = [Ifaddr(family, 0)]
            tp.tun_if.if_addrlist.append(found[0])
        match cmd:
            case "SIOCSIFADDR":
                found[0].ifa_addr = address
            case "SIOCSIFDSTADDR":
                found[0].ifa_dstaddr = address
            case _:
                found[0].ifa_broadaddr = address
        return self.tun_ioctl(tp, cmd, family)

    def ifioctl(self, tp: Softc, flags: int) -> int:
        """net/if.c, SIOCSIFFLAGS."""
        if tp.tun_if.if_flags & IFF_UP and not flags & IFF_UP:
            self.if_down(tp.tun_if)
        changeable = IFF_UP | IFF_DEBUG | IFF_LINK012
        tp.tun_if.if_flags = tp.tun_if.if_flags & ~changeable | flags & changeable
        return self.tun_ioctl(tp, "SIOCSIFFLAGS", flags)

    def if_down(self, ifp: Ifnet) -> None:
        ifp.if_flags &= ~IFF_UP
        ifp.if_snd.mbufs.clear()

    def fsetown(self, tp: Softc, cmd: str, pgid: int, host: int) -> int:
        """kern/kern_descrip.c."""
        if cmd == "TIOCSPGRP":
            if pgid < 0:
                return errno.EINVAL
            pgid = -pgid
        if pgid != 0 and host != 0:
            return host
        tp.tun_pgid = pgid
        return 0

    def set_flag(self, tp: Softc, flag: int, on: int) -> None:
        if on:
            tp.tun_flags |= flag
        else:
            tp.tun_flags &= ~flag
