"""When the ends of a cable have carrier. Pure: events and the time in, commands out.

A real cable's ends lose carrier together. Here an end has carrier while the cable is up and the far end is present: its
guest, device or program is connected. Carrier that was lost comes back when that is so again and the hold-down is over,
which begins anew with every loss, so a far end that flaps is seen as away.
"""

from dataclasses import dataclass
from typing import Final

__all__ = ["GRACE_S", "CableCarrier", "SetCarrier"]

# A far end that is taken over comes a moment later than this one: nobody is told before.
GRACE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class SetCarrier:
    """Tell what is behind an end that it has carrier, or none."""

    end: str
    up: bool


@dataclass(slots=True)
class _End:
    patient_until: float
    present: bool = False
    told: bool | None = None  # None: nothing yet
    stale: bool = False  # what is behind it is new, and has to be told again
    away_until: float = 0.0


class CableCarrier:
    """The carrier of both ends. Times are seconds of a monotonic clock.

    `hold`: how long a lost carrier stays away, s; None: ends do not notice anything, they always have carrier.
    """

    def __init__(self, *, up: bool, hold: float | None) -> None:
        self._ends: Final[dict[str, _End]] = {}
        self._up = up
        self._hold = hold

    def told(self, end: str) -> bool | None:
        """What an end was told last; None: nothing yet."""
        return self._ends[end].told

    def set_cable(self, now: float, *, up: bool, hold: float | None) -> list[SetCarrier]:
        """The cable was cut or mended, or its hold-down changed."""
        self._up, self._hold = up, hold
        return self.tick(now)

    def join(self, now: float, end: str) -> list[SetCarrier]:
        """One more end, of two. What is behind it is not there yet."""
        self._ends[end] = _End(now + GRACE_S)
        return self.tick(now)

    def leave(self, now: float, end: str) -> list[SetCarrier]:
        """An end that leaves loses its carrier, and so does the other one."""
        del self._ends[end]
        return [SetCarrier(end, False), *self.tick(now)]

    def set_present(self, now: float, end: str, present: bool) -> list[SetCarrier]:
        """What is behind an end came or went. One that came is told again: it may be another one."""
        this = self._ends[end]
        this.stale = this.stale or (present and not this.present)
        this.present = present
        return self.tick(now)

    def tick(self, now: float) -> list[SetCarrier]:
        """What is due now."""
        return [command for end in self._ends if (command := self._settle(now, end)) is not None]

    def deadline(self) -> float | None:
        """When `tick` has something to say although nothing happens; None: never."""
        due = [this.away_until for end, this in self._ends.items() if this.told is False and self._may(end)]
        due += [this.patient_until for this in self._ends.values() if this.told is None]
        return min(due, default=None)

    def _may(self, end: str) -> bool:
        """Whether an end could have carrier, hold-down aside."""
        far = any(this.present for other, this in self._ends.items() if other != end)
        return self._hold is None or (self._up and far)

    def _settle(self, now: float, end: str) -> SetCarrier | None:
        this, up = self._ends[end], self._may(end)
        if not up and this.told is None and self._up and now < this.patient_until:
            return None
        if not up and this.told:
            this.away_until = now + (self._hold or 0.0)
        elif up and this.told is False and self._hold is not None and now < this.away_until:
            up = False
        if up is this.told and not this.stale:
            return None
        this.told, this.stale = up, False
        return SetCarrier(end, up)
