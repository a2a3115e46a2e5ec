"""Tun units without a backend: create, destroy and open them by number, and be the network stack behind them.

`TunDriver` carries out what the state machine (`table.py`, `unit.py`) decides on the engine's half of each unit, which
has the packets. Interface face: `Interface.output` and `Interface.input`; device face: `TunFile` (file.py).

    driver = TunDriver()
    tun0 = driver.create(0)
    tun0.set_address(IPv4Address("10.7.0.1"))
    file = driver.open(0, header="null")
    tun0.output(packet)                 # what the guest sends ...
    file.read(1504)                     # ... a program reads, behind its address family

Thread-safe: the state machine has one lock, packets the engine's. Errors are `OSError` with the driver's errno.
"""

import errno
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from itertools import count
from types import TracebackType
from typing import Final, Literal, Self

from vbackend.dataplane import NativeCapture, NativeUnit, send_sigio
from vbackend.tun.clock import Clock
from vbackend.tun.file import TunFile
from vbackend.tun.table import RevivedError, UnitTable
from vbackend.tun.unit import Unit
from vbackend.tun.vocabulary import (
    Address,
    Command,
    DeleteRoute,
    Detach,
    Free,
    Header,
    IfAddr,
    IfFlag,
    Ioctl,
    NotifyPollers,
    Purge,
    ResetInterface,
    SetState,
    Signal,
    System,
    TunFlag,
    Wake,
)

__all__ = ["AF_INET", "AF_INET6", "AF_UNSPEC", "IFQMAXLEN", "Interface", "TunDriver"]

AF_UNSPEC, AF_INET, AF_INET6 = 0, 2, 24  # NetBSD sys/socket.h; `output` takes every system's number of IPv6
IFQMAXLEN: Final = 256  # packets in if_snd, and of each family in the input queue (net/if.c: ifqmaxlen)
_MOST_PACKETS: Final = 2**31 - 1  # ifq_maxlen is an int


class Interface:
    """A unit as the network stack sees it; it stays with its unit's number while that is open."""

    def __init__(self, driver: "TunDriver", unit: Unit, input_queue: int) -> None:
        self._driver: Final = driver
        self._unit: Final = unit
        self.native: Final[NativeUnit] = NativeUnit(queue=IFQMAXLEN, input_queue=input_queue)
        self.queue_limit = IFQMAXLEN
        self.rate = self.burst = 0  # bits/s and bytes; no limit
        self.file: TunFile | None = None  # who has the device face open
        self.on_change: Callable[[], None] | None = None  # called when addresses or mode may have changed
        self.on_close: Callable[[], object] | None = None  # called when the device face was closed

    # What it looks like

    @property
    def driver(self) -> "TunDriver":
        return self._driver

    @property
    def number(self) -> int:
        return self._unit.number

    @property
    def name(self) -> str:
        return self._unit.name

    @property
    def flags(self) -> TunFlag:
        """The unit's, RWAIT while a reader sleeps."""
        waits = TunFlag.RWAIT if self.native.view()["reader_waits"] else TunFlag(0)
        return self._unit.flags | waits

    @property
    def if_flags(self) -> IfFlag:
        return self._unit.if_flags

    @property
    def mtu(self) -> int:
        return self._unit.mtu

    @property
    def tunmtu(self) -> int:
        return self._unit.tunmtu

    @property
    def addresses(self) -> tuple[IfAddr, ...]:
        return tuple(self._unit.addresses)

    @property
    def groups(self) -> frozenset[Address]:
        return frozenset(self._unit.groups)

    @property
    def header(self) -> Header:
        return self._unit.header

    @property
    def system(self) -> System:
        return self._unit.system

    @property
    def owner(self) -> int:
        return self._unit.owner

    @property
    def index(self) -> int:
        return self._unit.index

    @property
    def queue_len(self) -> int:
        """Packets in if_snd."""
        return self.native.view()["queued"]

    def counters(self) -> dict[str, int]:
        """ipackets ibytes opackets obytes ierrors oerrors collisions drops (of if_snd), input_drops, purged."""
        return {
            name: value
            for name, value in self.native.view().items()
            if name not in ("queued", "input", "reader_waits")
        }

    # Packets

    def output(
        self, packet: bytes, family: int | None = None, destination: Address | str | None = None
    ) -> None:
        """Send a packet to the reader (if_tun.c tun_output; T1 to T6).

        `family`: an AF_ number, None: what the version nibble says. `destination`: next hop, None: the packet's own.
        ENXIO: the interface is gone; EHOSTDOWN: not READY; EAFNOSUPPORT; ENOBUFS: if_snd is full.
        """
        if not self._unit.flags & TunFlag.INITED:
            raise OSError(errno.ENXIO, f"output on {self.name}: its interface was destroyed")
        if family is None:
            family = {4: AF_INET, 6: AF_INET6}.get(packet[0] >> 4 if packet else 0, -1) % (1 << 32)
        if destination is None:
            destination = _destination(packet)
        self.native.output(packet, family, destination)
        if self.rate:
            self._driver.held(self.native)

    def input(self) -> tuple[int, bytes] | None:
        """The next packet that was written: its IP version and its bytes; None when there is none (W4, W6)."""
        return self.native.take_input()

    def capture(
        self,
        capture: NativeCapture,
        interface: int = 0,
        *,
        link: Literal["null", "loop", "raw"] = "null",
        snaplen: int = 262_144,
        program: Sequence[tuple[int, int, int, int]] | None = None,
    ) -> None:
        """Record packets of both directions until the unit is destroyed (bpf_mtap_af; T2, W6)."""
        accepted = None if program is None else list(program)
        self.native.capture(capture, interface, link=link, snaplen=snaplen, filter=accepted)

    def uncapture(self, capture: NativeCapture) -> None:
        """End that."""
        self.native.uncapture(capture)

    # Interface ioctls (if_tun.c tun_ioctl; A1 to A3)

    def ifioctl(self, request: int, value: object) -> None:
        """By number, see `Unit.ifioctl`."""
        self._driver.change(self, lambda unit: unit.ifioctl(request, value))

    def set_address(self, local: Address) -> None:
        self._driver.change(self, lambda unit: unit.set_address(local))

    def set_peer(self, peer: Address) -> None:
        self._driver.change(self, lambda unit: unit.set_peer(peer))

    def add_address(self, address: IfAddr) -> None:
        self._driver.change(self, lambda unit: unit.add_address(address))

    def set_broadcast(self, broadcast: Address) -> None:
        self._driver.change(self, lambda unit: unit.set_broadcast(broadcast))

    def remove_address(self, local: Address) -> None:
        self._driver.change(self, lambda unit: unit.remove_address(local))

    def set_mtu(self, mtu: int) -> None:
        self._driver.change(self, lambda unit: unit.set_mtu(mtu))

    def add_multicast(self, group: Address) -> None:
        self._driver.change(self, lambda unit: unit.add_multicast(group))

    def remove_multicast(self, group: Address) -> None:
        self._driver.change(self, lambda unit: unit.remove_multicast(group))

    def set_flags(self, flags: int) -> None:
        self._driver.change(self, lambda unit: unit.set_flags(flags))

    # Queueing

    def set_queue_limit(self, packets: int) -> None:
        """Change ifq_maxlen of if_snd; what is queued stays."""
        self.native.set_limit(packets)
        self.queue_limit = packets

    def set_rate(self, bits_per_s: int, burst_bytes: int) -> None:
        """Limit what leaves if_snd with a token bucket (Q1); 0 bits/s: no limit."""
        self.native.set_rate(bits_per_s, burst_bytes)
        self.rate, self.burst = bits_per_s, burst_bytes if bits_per_s else 0

    def reset(self) -> None:
        """The interface is new: counters, queues, limit and rate (if_tun.c tunattach0; C1, C2)."""
        self.native.reset_interface()
        self.set_queue_limit(IFQMAXLEN)
        self.set_rate(0, 0)


class TunDriver:
    """All units of one driver: the cloner, the list of units, the list of zombies.

    `privileged`: asked at each open (O1). `delete_route`: told which routes a close takes away (X1).
    """

    def __init__(
        self,
        *,
        privileged: Callable[[], bool] = lambda: True,
        delete_route: Callable[[str, DeleteRoute], None] = lambda _name, _route: None,
    ) -> None:
        self._lock = threading.RLock()
        self._table = UnitTable()
        self._interfaces: dict[int, Interface] = {}
        self._indexes = count(1)
        self._privileged = privileged
        self._delete_route = delete_route
        self.clock: Final = Clock()

    @property
    def tundebug(self) -> int:
        """What TUNSDEBUG set; one for all units."""
        return self._table.tundebug

    def units(self) -> tuple[Interface, ...]:
        """Units with an interface, by number."""
        with self._lock:
            return tuple(self._interfaces[unit.number] for unit in self._table.live)

    def zombies(self) -> tuple[int, ...]:
        """Numbers of units that were destroyed while open, and not closed since."""
        with self._lock:
            return tuple(unit.number for unit in self._table.zombies)

    def unit(self, unit: int | str) -> Interface:
        """A unit by number or name. ENXIO: there is none."""
        with self._lock:
            return self._interfaces[self._table.find(unit).number]

    def create(
        self,
        number: int | None = None,
        *,
        tunmtu: int | None = None,
        system: System | None = None,
        queue: int = IFQMAXLEN,
        input_queue: int = IFQMAXLEN,
    ) -> Interface:
        """Make unit `number`, None: the first free one (C1, C2). EEXIST, EINVAL: see `UnitTable.create`.

        `queue`: limit of if_snd, packets. `input_queue`: of each family; a zombie keeps the one that it has. EINVAL
        also for a limit that is none.
        """
        for what, packets in (("queue", queue), ("input_queue", input_queue)):
            if not 0 <= packets <= _MOST_PACKETS:
                raise OSError(
                    errno.EINVAL, f"create a unit with {what} {packets}: give 0 to {_MOST_PACKETS} packets"
                )
        with self._lock:
            if number is None:
                number = next(free for free in count() if free not in self._interfaces)
            commands = self._table.create(number, next(self._indexes), tunmtu=tunmtu, system=system)
            interface = self._adopt(number, input_queue)
            self._carry_out(interface, commands)
            interface.set_queue_limit(queue)
            return interface

    def destroy(self, unit: int | str) -> None:
        """Take a unit's interface away (D1, D2). ENXIO: there is none."""
        with self._lock:
            interface = self._interfaces[self._table.find(unit).number]
            self._carry_out(interface, self._table.destroy(interface.number))

    def open(self, number: int, *, header: Header | None = None, nonblocking: bool | None = None) -> TunFile:
        """Open the device face; a unit that is not there is made (O1, O2). None leaves what the last open had (X3).

        EPERM, ENXIO, EBUSY, EINVAL: see `UnitTable.open`.
        """
        with self._lock:
            privileged, index = self._privileged(), next(self._indexes)
            try:
                ticket, commands = self._table.open(number, privileged=privileged, index=index, header=header)
            except RevivedError as error:
                self._carry_out(self._interfaces[number], error.commands)
                raise
            interface = self._adopt(number, IFQMAXLEN)
            self._carry_out(interface, commands)
            interface.file = TunFile(self, interface, ticket)
            if nonblocking is not None:
                self.ioctl(number, Ioctl.FIONBIO, int(nonblocking))
            return interface.file

    def close(self, number: int, ticket: int | None = None) -> None:
        """Close the device face (X1 to X3). Nothing is done when it is not open, or open with another ticket."""
        with self._lock:
            interface = self._interfaces.get(number)
            if interface is not None:
                self._carry_out(interface, self._table.close(number, ticket))

    def ioctl(self, number: int, request: int, value: int = 0, ticket: int | None = None) -> int:
        """A request on the device face (I1). ENXIO, ENOTTY, EINVAL, EBUSY; ESRCH, EPERM: no owner of ours.

        EBADF: it is not open with this ticket any more.
        """
        with self._lock:
            unit = self._table.find(number)
            if ticket not in (None, unit.ticket):
                raise OSError(errno.EBADF, f"ioctl {request:#x} on {unit.name}: the file is closed")
            interface = self._interfaces[number]
            first_len = interface.native.first_len() if request == Ioctl.FIONREAD else 0
            reply = self._table.ioctl(
                number, request, value, first_len=first_len, owner_errno=_owner_errno(request, value)
            )
            self._carry_out(interface, reply.commands)
            if reply.commands and interface.on_change is not None:
                interface.on_change()
            return reply.value

    def change(self, interface: Interface, ask: Callable[[Unit], list[Command]]) -> None:
        """Ask a unit's state machine for a change, and carry it out. ENXIO: its interface is gone."""
        with self._lock:
            self._carry_out(interface, ask(interface._unit))
            if interface.on_change is not None:
                interface.on_change()

    def held(self, native: NativeUnit) -> None:
        """Packets of a rate-limited unit may be held back: see to it that who polls is told when one may leave."""
        if native.held():
            self.clock.poke(native)

    def shut_down(self) -> None:
        """Close and destroy all units, and end the clock; a second call does nothing."""
        with self._lock:
            for interface in list(self._interfaces.values()):
                self.close(interface.number)
            for unit in self._table.live:
                self.destroy(unit.number)
        self.clock.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shut_down()

    def _adopt(self, number: int, input_queue: int) -> Interface:
        """The unit's engine half: a zombie's, or a new one."""
        if number not in self._interfaces:
            self._interfaces[number] = Interface(self, self._table.find(number), input_queue)
        return self._interfaces[number]

    def _carry_out(self, interface: Interface, commands: list[Command]) -> None:
        native = interface.native
        for command in commands:
            match command:
                case SetState():
                    self._set_state(interface, command)
                case Purge():
                    native.purge()
                case ResetInterface():
                    interface.reset()
                case Wake():
                    self._wake(interface)
                case Signal(owner, code):
                    send_sigio(owner, code)
                case DeleteRoute():
                    self._delete_route(interface.name, command)
                case NotifyPollers():
                    pass  # the descriptor changed with the state
                case Detach():
                    native.detach_captures()
                case Free():
                    if not interface._unit.flags & TunFlag.OPEN:
                        del self._interfaces[interface.number]
                        self._set_state(interface, interface._unit.state())
                        self._wake(interface)

    def _set_state(self, interface: Interface, state: SetState) -> None:
        interface.native.set_state(
            flags=int(state.flags),
            index=state.index,
            ticket=state.ticket,
            tunmtu=state.tunmtu,
            header=state.header,
            system=state.system,
            owner=state.owner,
        )
        if state.ticket == 0 and interface.file is not None:
            interface.file = None
            if interface.on_close is not None:
                interface.on_close()

    def _wake(self, interface: Interface) -> None:
        interface.native.wake()
        if interface.file is not None:
            interface.file.wake()


def _destination(packet: bytes) -> Address | None:
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        return IPv4Address(packet[16:20])
    if version == 6 and len(packet) >= 40:
        return IPv6Address(packet[24:40])
    return None


def _owner_errno(request: int, value: int) -> int:
    """What the host says of an owner for SIGIO: it must be there, and in our session (kern_descrip.c fsetown)."""
    if request not in (Ioctl.FIOSETOWN, Ioctl.TIOCSPGRP) or value == 0:
        return 0
    try:
        if request == Ioctl.TIOCSPGRP or value < 0:
            os.killpg(abs(value), 0)
            with suppress(ProcessLookupError):  # its leader has ended, so nobody can tell its session
                return 0 if os.getsid(abs(value)) == os.getsid(0) else errno.EPERM
            return 0
        os.kill(value, 0)
        return 0 if os.getsid(value) == os.getsid(0) else errno.EPERM
    except OverflowError:
        return errno.ESRCH
    except OSError as error:
        return error.errno or errno.ESRCH
