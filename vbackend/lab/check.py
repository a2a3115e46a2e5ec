"""What a lab asks of this host and the host has not: files, namespaces, users, filters, models of QEMU's.

Looks, and changes nothing. Not here: what is wrong on every host (model.py, conflicts.py). Rule: what only a program or
library can judge that is not installed is not judged.
"""

import difflib
import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from vbackend.capture.filter import compile_filter
from vbackend.capture.links import links_of
from vbackend.capture.pcapng import DEFAULT_SNAPLEN, LinkType
from vbackend.errors import ConfigError, HostError
from vbackend.host.netns import namespace_path
from vbackend.host.users import group_id, user_id
from vbackend.images.recipe import find_recipe, load_recipe
from vbackend.lab.model import Capture, Lab, Nic, Vm, Where, end_name, is_vm_end
from vbackend.ports.parse import parse_port
from vbackend.ports.spec import (
    DgramUnixSpec,
    PortSpec,
    StreamSpec,
    TapSpec,
    TunSpec,
    UnitSpec,
    UnixAddress,
    VdeSpec,
    VhostUserSpec,
)
from vbackend.qemu.catalogue import known_devices, known_machines
from vbackend.qemu.version import QEMU

__all__ = ["host_problems"]

# Every QEMU for x86 has these, and to ask it takes a moment.
_MACHINE: Final = Vm.model_fields["machine"].default
_MODEL: Final = Nic.model_fields["model"].default


def host_problems(lab: Lab) -> Iterator[tuple[Where, str]]:
    """What is wrong, and where. Runs QEMU, and waits for DNS where a filter has names of hosts."""
    yield from _files(lab)
    yield from _ports(lab)
    yield from _filters(lab)
    yield from _models(lab)


def _files(lab: Lab) -> Iterator[tuple[Where, str]]:
    """What VMs boot or are given, and where captures go to."""
    for number, capture in enumerate(lab.capture):
        if what := _no_target(capture.file):
            yield ("capture", number, "file"), what
    for name, vm in lab.vm.items():
        if vm.image is not None:
            try:
                load_recipe(find_recipe(vm.image))
            except (ConfigError, OSError) as error:
                yield ("vm", name, "image"), str(error)
        booted = {"kernel": vm.kernel, "initrd": vm.initrd, "disk": vm.disk}
        wanted: list[tuple[Where, str | None]] = [((key,), file) for key, file in booted.items()]
        wanted += [(("files", guest), host) for guest, host in vm.files.items()]
        for where, file in wanted:
            written = vm.persistent and where == ("disk",)
            if file is not None and (what := _no_file(file, os.R_OK | (os.W_OK if written else 0))):
                yield ("vm", name, *where), what


def _ports(lab: Lab) -> Iterator[tuple[Where, str]]:
    for where, end in lab.placed():
        if is_vm_end(end):
            continue
        spec = parse_port(end)
        try:
            _look_up(spec)
        except (ConfigError, HostError) as error:
            yield where, f"{end!r}: {error}"
        path = _made_path(spec)
        if path is not None and not path.startswith("@") and (what := _no_place(path) or _taken(spec, path)):
            yield where, f"{end!r}: {what}"


def _look_up(spec: PortSpec) -> None:
    """ConfigError, HostError: there is no such namespace, user or group."""
    if isinstance(spec, TapSpec | TunSpec) and spec.netns is not None:
        namespace_path(spec.netns)
    if isinstance(spec, TapSpec | TunSpec) and spec.owner is not None:
        user_id(spec.owner)
    if isinstance(spec, VdeSpec) and spec.group is not None:
        group_id(spec.group)


def _no_file(file: str, access: int) -> str:
    """What is wrong with a file that is to be there; "": nothing."""
    mode, why = _mode(file)
    if not mode:
        return f"there is no file {file!r}{why}; give a path from the lab file's folder"
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        return f"{file!r} is no file; give a path from the lab file's folder"
    return "" if os.access(file, access) else f"no permission for {file!r}; see its owner and mode"


def _no_target(file: str) -> str:
    """What is wrong with a file that is to be written, whether there is one or not; "": nothing."""
    mode, _ = _mode(file)
    if not mode:
        return _no_place(file)
    if not stat.S_ISREG(mode):
        return f"{file!r} is no file; give another name"
    return "" if os.access(file, os.W_OK) else f"no permission to write {file!r}; see its owner and mode"


def _no_place(file: str) -> str:
    """What is wrong with the folder of a file that is to be made; "": nothing."""
    folder = str(Path(file).parent)
    mode, why = _mode(folder)
    if not stat.S_ISDIR(mode):
        return f"there is no folder {folder!r}{why}; make it first"
    may = os.access(folder, os.W_OK | os.X_OK)
    return "" if may else f"no permission to write to folder {folder!r}; see its owner and mode"


def _taken(spec: PortSpec, path: str) -> str:
    """What is in the way of a socket; "": nothing, for another socket is judged when it is bound."""
    try:
        mode = Path(path).lstat().st_mode
    except OSError:
        return ""
    if isinstance(spec, VdeSpec):
        return "" if stat.S_ISDIR(mode) else f"{path!r} is no folder; remove it or choose another path"
    return "" if stat.S_ISSOCK(mode) else f"{path!r} is no socket; remove it or choose another path"


def _mode(path: str) -> tuple[int, str]:
    """Type and mode of a file; 0: there is none, or (why) it cannot be seen."""
    try:
        return Path(path).stat().st_mode, ""
    except (FileNotFoundError, NotADirectoryError):
        return 0, ""
    except OSError as error:
        return 0, f" ({error.strerror})"
    except ValueError as error:  # a NUL in it
        return 0, f" ({error})"


def _made_path(spec: PortSpec) -> str | None:
    """Of the socket, or its folder, that the port makes."""
    match spec:
        case (
            StreamSpec(address=UnixAddress(path), dial=False)
            | VhostUserSpec(address=UnixAddress(path), dial=False)
            | UnitSpec(address=UnixAddress(path))
            | DgramUnixSpec(local=UnixAddress(path))
            | VdeSpec(directory=path)
        ):
            return path
        case _:
            return None


# Filters


@dataclass(frozen=True, slots=True)
class _Joined:
    name: str
    kind: Literal["switch", "cable"]
    ports: tuple[str, ...]


def _filters(lab: Lab) -> Iterator[tuple[Where, str]]:
    for number, capture in enumerate(lab.capture):
        for kind, which in _link_types(lab, capture).items() if capture.filter else ():
            try:
                compile_filter(str(capture.filter), kind, DEFAULT_SNAPLEN)
            except ConfigError as error:
                yield ("capture", number, "filter"), f"{error}{which}"
                break
            except HostError:
                return  # no libpcap


def _link_types(lab: Lab, capture: Capture) -> dict[LinkType, str]:
    """How the packets of its links begin, and what to say of those that are no frames."""
    units = {end_name(end): spec for end, spec in lab.ports().items() if isinstance(spec, TunSpec | UnitSpec)}
    segments = [
        _Joined(name, "switch", tuple(map(end_name, each.ports))) for name, each in lab.switch.items()
    ]
    segments += [_Joined(each.title, "cable", tuple(map(end_name, each.ends))) for each in lab.cable]
    found: dict[LinkType, str] = {}
    for link in links_of(segments, units):
        if not capture.links or link.title in capture.links:
            for interface in link.interfaces:
                unit = units.get(interface.taps[0][0])
                if unit is None:
                    found[LinkType.ETHERNET] = ""
                else:  # as UnitPort.capture_link
                    loop = isinstance(unit, UnitSpec) and unit.header == "loop"
                    which = f" (packets of {link.title} have no Ethernet header)"
                    found.setdefault(LinkType.LOOP if loop else LinkType.NULL, which)
    return found or {LinkType.ETHERNET: ""}


# QEMU


def _models(lab: Lab) -> Iterator[tuple[Where, str]]:
    for name, vm in lab.vm.items():
        kind = _machine_type(vm)
        if kind not in (None, _MACHINE) and (known := known_machines()) and kind not in known:
            yield ("vm", name, "machine"), _unknown("machine", str(kind), known)
        for nic, card in vm.nic.items():
            if card.model == _MODEL or not (devices := known_devices()).cards:
                continue
            where = ("vm", name, "nic", nic, "model")
            if card.model in devices.others:
                yield where, f"{card.model!r} is a device of {QEMU}, but no network card; {_listed('device')}"
            elif card.model not in devices.cards:
                yield where, _unknown("device", card.model, devices.cards)


def _machine_type(vm: Vm) -> str | None:
    """None: QEMU's own choice, or that of `args`."""
    first, *_ = words = vm.machine.split(",")
    if any(word in ("-machine", "--machine", "-M", "--M") for word in vm.args):
        return None
    told = [word.removeprefix("type=") for word in words if word.startswith("type=")]
    return told[-1] if told else None if "=" in first else first


def _unknown(option: str, name: str, known: Collection[str]) -> str:
    what = "network card" if option == "device" else option
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else _listed(option)
    return f"{QEMU} has no {what} {name!r}; {hint}"


def _listed(option: str) -> str:
    return f"`{QEMU} -{option} help` lists them"
