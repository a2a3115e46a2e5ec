"""Tests with vbackend: real guests and links as pytest fixtures, and guests that are a few lines of Python.

What a test imports is here; it is loaded when it is first used, since pytest imports this package at every start.
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from vbackend.testing.fake_guest import FakeGuest
    from vbackend.testing.lab import Lab
    from vbackend.testing.link import Link, LinkStats
    from vbackend.testing.packets import Packet
    from vbackend.testing.recorder import Recording
    from vbackend.testing.vm import CommandError, Result, Vm

__all__ = [
    "CommandError",
    "FakeGuest",
    "Lab",
    "Link",
    "LinkStats",
    "Packet",
    "Recording",
    "Result",
    "Vm",
]

_PLACES: Final = {
    "CommandError": "vm",
    "FakeGuest": "fake_guest",
    "Lab": "lab",
    "Link": "link",
    "LinkStats": "link",
    "Packet": "packets",
    "Recording": "recorder",
    "Result": "vm",
    "Vm": "vm",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
