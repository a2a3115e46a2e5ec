"""Frames in messages of failed tests."""

from collections.abc import Sequence
from typing import Final, TypeVar

__all__ = ["frame_line", "listed"]

T = TypeVar("T")
_SHOWN: Final = 10


def frame_line(frame: bytes) -> str:
    """A frame in a few words."""
    return f"{frame[6:12].hex(':')} > {frame[:6].hex(':')} {frame[12:14].hex()} {len(frame)} bytes"


def listed(items: Sequence[T]) -> str:
    """The last few of them."""
    more = len(items) - _SHOWN
    shown = [f"{more} before", *map(str, items[-_SHOWN:])] if more > 0 else list(map(str, items))
    return "; ".join(shown) or "nothing"
