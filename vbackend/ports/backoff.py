"""How long to wait before the next try.

Pure: random numbers are an argument. Rule: the delays double from 50 ms to 2 s, each shortened by up to half
at random, so that many ports that lost one host do not all come back in the same instant.
"""

from collections.abc import Callable
from typing import Final

__all__ = ["Backoff"]

FIRST_S: Final = 0.05
LAST_S: Final = 2.0


class Backoff:
    """Delays between tries. `random` gives numbers in [0, 1)."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._ceiling_s = FIRST_S

    def next_s(self) -> float:
        """The delay before the next try, in seconds: in (ceiling/2, ceiling], then the ceiling doubles."""
        delay_s = self._ceiling_s * (1.0 - self._random() / 2)
        self._ceiling_s = min(self._ceiling_s * 2, LAST_S)
        return delay_s

    def reset(self) -> None:
        """A try succeeded: begin again with the shortest delay."""
        self._ceiling_s = FIRST_S
