"""Which machines and network cards a QEMU knows, as it says itself. `parse_*` are pure; `known_*` run the binary.

Sources: softmmu/vl.c machine_help_func, softmmu/qdev-monitor.c qdev_print_devinfos.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from typing import Final

from vbackend.qemu.version import QEMU

__all__ = ["Devices", "known_devices", "known_machines", "parse_devices", "parse_machines"]

_PATIENCE_S: Final = 10.0
_CARDS: Final = "Network"
_DEVICE: Final = re.compile(r'name "([^"]+)"(?:, bus [^,]+)?(?:, alias "([^"]+)")?')


@dataclass(frozen=True, slots=True)
class Devices:
    """Models for -device, aliases too."""

    cards: frozenset[str] = frozenset()  # network cards
    others: frozenset[str] = frozenset()


def parse_machines(text: str) -> frozenset[str]:
    """The names in what `-machine help` prints, aliases too; none: it is something else."""
    _, header, lines = text.partition("Supported machines are:\n")
    return (
        frozenset(line.split()[0] for line in lines.splitlines() if line.strip()) if header else frozenset()
    )


def parse_devices(text: str) -> Devices:
    """The models in what `-device help` prints; none: it is something else."""
    cards, others = set[str](), set[str]()
    heading = ""
    for line in text.splitlines():
        if line.endswith(" devices:"):
            heading = line.removesuffix(" devices:")
        elif heading and (found := _DEVICE.match(line)):
            (cards if heading == _CARDS else others).update(name for name in found.groups() if name)
    return Devices(frozenset(cards), frozenset(others - cards))


@cache
def known_machines(binary: str = QEMU) -> frozenset[str]:
    """What a binary, by name or path, has for -machine; asked once. Empty: it is not there, or does not tell."""
    return parse_machines(_help(binary, "-machine"))


@cache
def known_devices(binary: str = QEMU) -> Devices:
    """What a binary, by name or path, has for -device; asked once. Empty: it is not there, or does not tell."""
    return parse_devices(_help(binary, "-device"))


def _help(binary: str, option: str) -> str:
    """ "": whoever starts this QEMU hears why it does not work (version.py)."""
    path = shutil.which(binary)
    if path is None:
        return ""
    try:
        done = subprocess.run(
            [path, option, "help"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
