"""When the ends of a cable have carrier. Pure: events and the time in, commands out.

A real cable's ends lose carrier together. Here an end has carrier while the cable is up and the far end is present: its
guest, device or program is connected. Carrier that was lost comes back when that is so again and the hold-down is over,
which begins anew with every loss, so a far end that flaps is seen as away.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

__all__ = ["CableCarrier", "SetCarrier"]


@dataclass(frozen=True, slots=True)
class SetCarrier:
    """Tell what is behind an end that it has carrier, or none."""

    end: str
    up: bool


class CableCarrier:
    """The carrier of both ends. Times are seconds of a monotonic clock.

    `hold`: how long a lost carrier stays away, s; None: ends do not notice anything, they always have carrier.
    """

    def __init__(self, ends: Iterable[str], *, up: bool, hold: float | None) -> None:
        first, second = ends
        self._far: Final = {first: second, second: first}
        self._present = {first: False, second: False}
        self._told: dict[str, bool | None] = {first: None, second: None}
        self._stale: set[str] = set()  # ends that have to be told again
        self._away_until = {first: 0.0, second: 0.0}
        self._up = up
        self._hold = hold

    @property
    def ends(self) -> tuple[str, ...]:
        return tuple(self._far)

    def told(self, end: str) -> bool | None:
        """What an end was told last; None: nothing yet."""
        return self._told[end]

    def set_cable(self, now: float, *, up: bool, hold: float | None) -> list[SetCarrier]:
        """The cable was cut or mended, or its hold-down changed."""
        self._up, self._hold = up, hold
        return self.tick(now)

    def set_present(self, now: float, end: str, present: bool) -> list[SetCarrier]:
        """What is behind an end came or went. One that came is told again: it may be another one."""
        if present and not self._present[end]:
            self._stale.add(end)
        self._present[end] = present
        return self.tick(now)

    def tick(self, now: float) -> list[SetCarrier]:
        """What is due now."""
        return [command for end in self._far if (command := self._settle(now, end)) is not None]

    def deadline(self) -> float | None:
        """When `tick` has something to say although nothing happens; None: never."""
        due = [
            until
            for end, until in self._away_until.items()
            if self._told[end] is False and self._could_be_up(end)
        ]
        return min(due, default=None)

    def _could_be_up(self, end: str) -> bool:
        return self._hold is None or (self._up and self._present[self._far[end]])

    def _settle(self, now: float, end: str) -> SetCarrier | None:
        up = self._could_be_up(end)
        if not up and self._told[end]:
            self._away_until[end] = now + (self._hold or 0.0)
        elif up and not self._told[end] and self._hold is not None and now < self._away_until[end]:
            up = False
        if up is self._told[end] and end not in self._stale:
            return None
        self._told[end] = up
        self._stale.discard(end)
        return SetCarrier(end, up)
