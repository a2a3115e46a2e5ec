"""The driver's units by number: the list of live ones, the list of zombies, and the life cycle between them. Pure.

A number is in one list at most, as in if_tun.c: creating it takes the zombie of that number. Live units are in
`tun_softc_list` there, zombies in `tunz_softc_list`.
"""

import errno
import re
from typing import Final, NamedTuple

from vbackend.tun.unit import Unit
from vbackend.tun.vocabulary import (
    HEADERS,
    SYSTEMS,
    TUNMTU,
    TUNMTU_MAX,
    Command,
    Header,
    Ioctl,
    Reply,
    System,
    TunFlag,
)

__all__ = ["Opened", "RevivedError", "UnitTable"]

_NAME: Final = re.compile(r"tun(0|[1-9][0-9]{0,8})")


class Opened(NamedTuple):
    """`ticket` tells this open from all others, earlier and later; it is the unit's until the close."""

    ticket: int
    commands: list[Command]


class RevivedError(OSError):
    """EBUSY of an open that revived the zombie of its number first, as the driver does: carry out `commands`."""

    def __init__(self, number: int, commands: list[Command]) -> None:
        super().__init__(
            errno.EBUSY, f"open tun{number}: its device face is open since before it was destroyed"
        )
        self.commands = commands


class UnitTable:
    """All units of one driver. Errors come before any change, except `RevivedError`."""

    def __init__(self) -> None:
        self.tundebug = 0
        self._live: dict[int, Unit] = {}
        self._zombies: dict[int, Unit] = {}
        self._tickets = 0

    @property
    def live(self) -> tuple[Unit, ...]:
        """Units with an interface, by number."""
        return tuple(self._live[number] for number in sorted(self._live))

    @property
    def zombies(self) -> tuple[Unit, ...]:
        """Units whose interface was destroyed while the device face was open, by number."""
        return tuple(self._zombies[number] for number in sorted(self._zombies))

    def find(self, unit: int | str) -> Unit:
        """A live unit by number or by name ("tun0"). ENXIO: there is none (tun_find_unit())."""
        number = unit if isinstance(unit, int) else _number(unit)
        found = self._live.get(number)
        if found is None:
            raise OSError(errno.ENXIO, f"{_name(unit)}: there is no such unit; create it first")
        return found

    def create(
        self, number: int, index: int, *, tunmtu: int | None = None, system: System | None = None
    ) -> list[Command]:
        """Make a unit, or revive its zombie (C1, C2: tun_clone_create()).

        `index`: of the interface, never used before. `tunmtu`: 1500 (when None) to 65535 bytes. `system`: whose
        family numbers; None leaves a zombie's, else it is netbsd. EEXIST: it is there; EINVAL: no such number,
        TUNMTU or system.
        """
        if number in self._live:
            raise OSError(errno.EEXIST, f"create tun{number}: it is there already")
        mtu = TUNMTU if tunmtu is None else tunmtu
        if number < 0 or not TUNMTU <= mtu <= TUNMTU_MAX or not (system is None or system in SYSTEMS):
            raise OSError(
                errno.EINVAL,
                f"create tun{number} with TUNMTU {mtu} for {system}: give a number from 0, "
                f"{TUNMTU} to {TUNMTU_MAX}, and one of {', '.join(SYSTEMS)}",
            )
        unit = self._zombies.pop(number, None) or Unit(number)
        if system is not None:
            unit.system = system
        self._live[number] = unit
        return unit.attach(index, mtu)

    def destroy(self, unit: int | str) -> list[Command]:
        """Take the interface away (D1, D2: tun_clone_destroy()). ENXIO: there is none."""
        gone = self.find(unit)
        commands = gone.detach()
        del self._live[gone.number]
        if gone.flags & TunFlag.OPEN:
            self._zombies[gone.number] = gone
        return commands

    def open(
        self, number: int, *, privileged: bool, index: int | None, header: Header | None = None
    ) -> Opened:
        """Open the device face (O1, O2: tunopen()).

        `index`: for the interface that is made when there is none; None when it cannot be made. `header`: None
        keeps the last one (X3). EPERM: not privileged; ENXIO: not there and not to be made; EBUSY: open already;
        EINVAL: no such header.
        """
        if not privileged:
            raise OSError(errno.EPERM, f"open tun{number}: needs privilege")
        if header is not None and header not in HEADERS:
            raise OSError(
                errno.EINVAL, f"open tun{number}: no header {header!r}; give one of {', '.join(HEADERS)}"
            )
        created: list[Command] = []
        if number not in self._live:
            if index is None or number < 0:
                raise OSError(errno.ENXIO, f"open tun{number}: it is not there and cannot be made")
            revives = number in self._zombies
            created = self.create(number, index)
            if revives:
                raise RevivedError(number, created)
        opened = self._live[number].open(self._tickets + 1, header)
        self._tickets += 1
        return Opened(self._tickets, created + opened)

    def close(self, number: int, ticket: int | None = None) -> list[Command]:
        """Close the device face, the last one of a zombie frees it (X1 to X3: tunclose()). Never an error.

        Nothing is done when it is not open, or open with another ticket.
        """
        unit = self._zombies.get(number) or self._live.get(number)
        if unit is None or not unit.flags & TunFlag.OPEN or ticket not in (None, unit.ticket):
            return []
        self._zombies.pop(number, None)
        return unit.close()

    def ifioctl(self, unit: int | str, request: int, value: object) -> list[Command]:
        """An interface ioctl by name or number: see `Unit.ifioctl`. ENXIO: there is no such unit."""
        return self.find(unit).ifioctl(request, value)

    def ioctl(
        self, number: int, request: int, value: int = 0, *, first_len: int = 0, owner_errno: int = 0
    ) -> Reply:
        """A device ioctl: see `Unit.ioctl`; the debug flag is one for all units. ENXIO: the interface is gone."""
        unit = self.find(number)
        if request == Ioctl.TUNSDEBUG:
            self.tundebug = value
            return Reply(0, [])
        if request == Ioctl.TUNGDEBUG:
            return Reply(self.tundebug, [])
        return unit.ioctl(request, value, first_len=first_len, owner_errno=owner_errno)


def _number(name: str) -> int:
    """-1 for what is no unit's name."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else -1


def _name(unit: int | str) -> str:
    return unit if isinstance(unit, str) else f"tun{unit}"
