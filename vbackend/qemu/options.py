"""QEMU's command line, as far as a NIC with shared memory depends on what else is in it. Pure.

Sources: util/qemu-option.c (commas), util/cutils.c do_strtosz (sizes), softmmu/vl.c (-m, -accel, -machine; several
-m and -machine are merged). Rule: a guess is never made; what cannot be read is a `ConfigError`.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

from vbackend.errors import ConfigError

__all__ = ["DEFAULT_MEMORY", "joined", "memory_to_share", "parse_size", "shared_memory", "surely_kvm"]

DEFAULT_MEMORY: Final = 128 << 20  # bytes a guest has without -m (hw/core/machine.c)

_MEMORY_ID: Final = "vbackend-memory"
_UNITS: Final = {"B": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50, "E": 60}
_SIZE: Final = re.compile(r"(\d{1,20})(?:\.(\d{1,18}))?([BKMGTPE]?)", re.IGNORECASE | re.ASCII)
_ALIGNMENT: Final = 8192  # softmmu/vl.c resolves -m to a multiple
_TRUE: Final = ("on", "yes", "true", "y")


def joined(first: str, options: Sequence[tuple[str, str]]) -> str:
    """QemuOpts' form: a comma in a value is doubled."""
    return ",".join([first, *(f"{key}={value.replace(',', ',,')}" for key, value in options)])


def parse_size(text: str) -> int:
    """Bytes, from a size in QEMU's form: `512` are MiB, `512M`, `1.5G`. ConfigError: it is none, or 0."""
    found = _SIZE.fullmatch(text)
    size = 0
    if found is not None:
        whole, fraction, unit = found[1], found[2] or "", found[3].upper() or "M"
        size = (int(whole + fraction) << _UNITS[unit]) // 10 ** len(fraction)
    if not 0 < size < 1 << 63:
        raise ConfigError(f"{text!r} is no size of a guest's memory; write for instance 512M or 4G")
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def shared_memory(size: int) -> list[str]:
    """Arguments that make all of a guest's memory, `size` bytes as in its -m, a file that can be passed on."""
    whole = next(unit for unit in "GMKB" if size % (1 << _UNITS[unit]) == 0)
    words = [("id", _MEMORY_ID), ("size", f"{size >> _UNITS[whole]}{whole}"), ("share", "on")]
    return ["-object", joined("memory-backend-memfd", words), "-machine", f"memory-backend={_MEMORY_ID}"]


def memory_to_share(command: Sequence[str]) -> int | None:
    """How many bytes of memory a guest has that `command` starts; None when the command shares it already.

    ConfigError: the memory's size cannot be read, or its own memory backend keeps it private.
    """
    own = [
        values["memory-backend"] for values in _options(command, "machine", "M") if "memory-backend" in values
    ]
    own += [values["memdev"] for values in _options(command, "numa") if "memdev" in values]
    if own:
        _check_shared(command, own)
        return None
    sizes = [values["size"] for values in _options(command, "m", implied="size") if "size" in values]
    return parse_size(sizes[-1]) if sizes else DEFAULT_MEMORY


def surely_kvm(command: Sequence[str]) -> bool:
    """Whether the guest that `command` starts can run on KVM only; QEMU's own choice is TCG."""
    named = [values["accel"] for values in _options(command, "accel", implied="accel") if "accel" in values]
    for values in _options(command, "machine", "M"):
        named += values.get("accel", "").split(":") if "accel" in values else []
    named += ["kvm" for word in command if word in ("-enable-kvm", "--enable-kvm")]
    return set(named) == {"kvm"}


def _check_shared(command: Sequence[str], used: Sequence[str]) -> None:
    for values in _options(command, "object", implied="qom-type"):
        kind, ident = values.get("qom-type", ""), values.get("id")
        # backends/hostmem-memfd.c is the one that shares unless told otherwise
        share = values.get("share", "on" if kind == "memory-backend-memfd" else "off")
        if ident in used and share not in _TRUE:
            raise ConfigError(
                f"the guest's memory, -object {kind},id={ident}, is private to QEMU; vhost-user needs share=on there"
            )


def _options(command: Sequence[str], *names: str, implied: str = "") -> Iterator[dict[str, str]]:
    """The key=value parts of each occurrence of an option. `implied`: the key of a first word without one."""
    wanted = {dashes + name for name in names for dashes in ("-", "--")}
    for word, text in pairwise(command):
        if word in wanted and not text.startswith("{"):
            parts = text.replace(",,", "\0").split(",")  # no word of a command line has a NUL
            pairs = [part.replace("\0", ",").partition("=") for part in parts]
            first = {implied: pairs[0][0]} if not pairs[0][1] else {}
            yield first | {key: value for key, equals, value in pairs if equals}
