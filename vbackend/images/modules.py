"""Kernel modules: which others they need, and the tables modprobe reads. Pure.

Debian makes these tables with depmod when a kernel is installed; an image's kernel is only unpacked.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

__all__ = ["ModuleInfo", "closure", "modules_alias", "modules_dep", "normal_name", "read_module"]

# .modinfo is a run of key=value strings; each ends with, and follows, a NUL.
INFO = re.compile(rb"(?<=\0)(depends|alias)=([\x20-\x7e]*)(?=\0)")


@dataclass(frozen=True, slots=True)
class ModuleInfo:
    name: str
    depends: tuple[str, ...]
    aliases: tuple[str, ...]


def normal_name(name: str) -> str:
    """The kernel's own spelling: `virtio-net` and `virtio_net` are one module."""
    return name.replace("-", "_")


def read_module(name: str, data: bytes) -> ModuleInfo:
    """What a .ko file says of itself."""
    depends: list[str] = []
    aliases: list[str] = []
    for key, value in INFO.findall(data):
        text = value.decode()
        if key == b"alias":
            aliases.append(text)
        else:
            depends += [normal_name(each) for each in text.split(",") if each]
    return ModuleInfo(normal_name(name), tuple(depends), tuple(aliases))


def closure(wanted: Iterable[str], find: Callable[[str], ModuleInfo]) -> list[ModuleInfo]:
    """The wanted modules and all they depend on, each after those it needs.

    `find` is asked once for each, by its normal name. ValueError when modules depend on each other.
    """
    done: dict[str, ModuleInfo] = {}

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in done:
            return
        if name in above:
            raise ValueError(f"kernel modules depend on each other: {' '.join(above)}")
        info = find(name)
        for other in info.depends:
            visit(other, (*above, name))
        done[name] = info

    for name in wanted:
        visit(normal_name(name), ())
    return list(done.values())


def modules_dep(ordered: Sequence[ModuleInfo], paths: Mapping[str, PurePosixPath]) -> str:
    """modules.dep: a line a module, with everything it needs, the one to load last first."""
    lines = []
    known = {info.name: info for info in ordered}
    for info in ordered:
        below = closure(info.depends, known.__getitem__)
        lines.append(" ".join([f"{paths[info.name]}:", *(str(paths[each.name]) for each in reversed(below))]))
    return "".join(f"{line}\n" for line in lines)


def modules_alias(modules: Iterable[ModuleInfo]) -> str:
    """modules.alias, by which the kernel asks for a module it does not know by name."""
    return "".join(f"alias {alias} {info.name}\n" for info in modules for alias in info.aliases)
