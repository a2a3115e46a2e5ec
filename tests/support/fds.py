"""Descriptors of this process, so that a test sees when some are left open."""

from pathlib import Path

__all__ = ["open_fds"]


def open_fds() -> set[int]:
    """Their numbers, and the one that the look itself has."""
    return {int(entry.name) for entry in Path("/proc/self/fd").iterdir()}
