"""The other side of a lab's daemon: finds labs and VMs by what users call them, starts daemons, ends dead ones.

For callers without an event loop. Rule: what a user may type is a file (it has a slash or ends in .toml) or the name
of a lab that runs; a VM is VM or LAB/VM.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from pydantic import JsonValue, ValidationError

from vbackend.control.client import ControlClient, call
from vbackend.control.place import lab_control_path, lab_names
from vbackend.errors import ConfigError, ControlError, HostError, VbackendError
from vbackend.host.tap import HostDevices
from vbackend.lab.load import load_lab
from vbackend.lab.machines import kill_qemus
from vbackend.lab.model import Lab
from vbackend.lab.process import find_qemus
from vbackend.lab.state import LabFolder, LabLock
from vbackend.lab.status import LabStatus, rates

__all__ = [
    "Named",
    "VmAddress",
    "apply_lab",
    "dead_guests",
    "down",
    "ensure_daemon",
    "find_vm",
    "is_served",
    "link_rates",
    "named_lab",
    "running_lab",
    "status",
]

_START_S: Final = 60.0  # for a daemon to take its guests over and answer
_END_S: Final = 30.0

OnEvent = Callable[[str, Mapping[str, Any]], None]  # an event's name and data


@dataclass(frozen=True, slots=True)
class Named:
    """What LAB on the command line is. `lab` None: the one of this name, as it ran last."""

    name: str
    lab: Lab | None = None
    file: str | None = None


@dataclass(frozen=True, slots=True)
class VmAddress:
    lab: str
    vm: str


def named_lab(text: str, environ: Mapping[str, str], *, host: bool = True) -> Named:
    """A lab by file or name. ConfigError: there is neither; `host`: or the file wants what this host has not."""
    if "/" in text or text.endswith(".toml") or (Path(text).is_file() and text not in lab_names(environ)):
        path = Path(text).absolute()
        lab = load_lab(path, host=host)
        return Named(lab.name, lab, str(path))
    if text not in lab_names(environ):
        there = ", ".join(lab_names(environ)) or "none"
        raise ConfigError(f"{text!r} is neither a lab file nor a lab that runs; running: {there}")
    return Named(text)


def is_served(name: str, environ: Mapping[str, str]) -> bool:
    """Whether the lab's daemon lives."""
    return LabLock.holder(LabFolder(name, environ)) is not None


def ensure_daemon(name: str, environ: Mapping[str, str]) -> None:
    """Start the lab's daemon unless it runs, and wait until it answers. HostError with its last words."""
    folder = LabFolder(name, environ)
    deadline = time.monotonic() + _START_S
    child: subprocess.Popen[bytes] | None = None
    while True:
        with contextlib.suppress(ControlError):
            call(str(folder.control), "query-version", timeout=_START_S)
            break
        if child is not None and child.poll():
            raise HostError(f"lab {name!r}: its daemon ended: {_last_line(folder.log)}")
        if time.monotonic() > deadline:
            raise HostError(f"lab {name!r}: its daemon does not answer; see {folder.log}")
        if (child is None or child.poll() is not None) and not is_served(name, environ):
            child = _spawn(folder, environ)
        time.sleep(0.05)
    if child is not None:
        child.returncode = 0  # it lives on; nobody here waits for it


def _spawn(folder: LabFolder, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    folder.make()
    with folder.log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "vbackend.lab.daemon", folder.name],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(environ),
            start_new_session=True,
        )


def apply_lab(named: Named, environ: Mapping[str, str], on_event: OnEvent) -> None:
    """Let the daemon become this lab; `on_event` hears what it tells. ControlError: it could not."""
    arguments: dict[str, JsonValue] = {"file": named.file}
    if named.lab is not None:
        arguments["lab"] = named.lab.model_dump(mode="json")

    async def talk() -> None:
        async with ControlClient(lab_control_path(named.name, environ)) as client:

            async def listen() -> None:
                async for event in client.events():
                    on_event(str(event["event"]), cast(dict[str, Any], event["data"]))

            listening = asyncio.create_task(listen())
            try:
                await client.execute("lab-apply", arguments, timeout=None)
            finally:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)

    try:
        asyncio.run(talk())
    except VbackendError:
        _await_end(named.name, environ)
        raise
    except KeyboardInterrupt:  # the daemon sees that we have hung up
        _await_end(named.name, environ, quiet_s=2.0)
        raise ControlError(f"lab {named.name!r}: interrupted; what was done is undone") from None


def _await_end(name: str, environ: Mapping[str, str], quiet_s: float = 0.0) -> None:
    """A daemon whose first lab failed ends: wait until it has, so that whoever comes next meets it no more.

    `quiet_s`: it may still have to notice; wait until it has changed nothing for so long.
    """
    started = quiet = time.monotonic()
    while is_served(name, environ) and (now := time.monotonic()) < started + _END_S:
        with contextlib.suppress(VbackendError):
            found = status(name, environ)
            quiet = now if found.changing else quiet
            if not found.ending and now >= quiet + quiet_s:
                return
        time.sleep(0.05)


def status(name: str, environ: Mapping[str, str]) -> LabStatus:
    """A running lab at this moment. ControlError: its daemon is dead, or another version."""
    answer = call(lab_control_path(name, environ), "lab-status")
    try:
        return LabStatus.model_validate(answer)
    except ValidationError as error:
        raise ControlError(f"lab {name!r}: its daemon is another version of vbackend: {error}") from None


def running_lab(name: str, environ: Mapping[str, str]) -> Lab:
    """What a lab's daemon runs. ControlError: nothing, or its daemon is dead."""
    answer = call(lab_control_path(name, environ), "query-lab")
    if answer is None:
        raise ControlError(f"lab {name!r} has not been started to the end; `vbackend up` starts it")
    return Lab.model_validate(answer)


def link_rates(name: str, environ: Mapping[str, str], seconds: float = 1.0) -> dict[str, tuple[float, float]]:
    """What goes over each link now, bits a second: from a cable's first end to its second and back; on a switch, from
    the end and to it."""
    before, started = status(name, environ), time.monotonic()
    time.sleep(seconds)
    now, took = status(name, environ), time.monotonic() - started
    return rates(before, now, took)


def dead_guests(name: str, environ: Mapping[str, str]) -> list[str]:
    """VMs whose QEMU runs, seen without the daemon."""
    folder = LabFolder(name, environ)
    return sorted(path.parent.name for path in find_qemus(folder.vms))


def down(name: str, environ: Mapping[str, str]) -> None:
    """Take a lab down, whether its daemon lives, hangs or is dead; nothing of it is left."""
    folder = LabFolder(name, environ)
    if is_served(name, environ):
        with contextlib.suppress(ControlError):
            call(str(folder.control), "lab-down", timeout=_END_S)
    deadline = time.monotonic() + _END_S
    while (lock := LabLock.take(folder)) is None:
        if not folder.root.exists():
            return  # the daemon has done it all
        holder = LabLock.holder(folder)
        if time.monotonic() > deadline and holder is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(holder, signal.SIGKILL)
            deadline = time.monotonic() + _END_S
        time.sleep(0.05)
    try:
        kill_qemus(folder)
        asyncio.run(_sweep())
        folder.remove()
    finally:
        lock.release()


async def _sweep() -> None:
    """Take away what a killed daemon left on the host."""
    await HostDevices().sweep()


def find_vm(text: str, lab: str | None, environ: Mapping[str, str]) -> VmAddress:
    """A VM by VM or LAB/VM. ConfigError: there is none, or several labs have one."""
    given, slash, vm = text.rpartition("/")
    labs = [given] if slash else [lab] if lab is not None else lab_names(environ)
    found = [name for name in labs if vm in LabFolder(name, environ).vm_names()]
    if len(found) == 1:
        return VmAddress(found[0], vm)
    if found:
        choices = " or ".join(f"{name}/{vm}" for name in found)
        raise ConfigError(f"{len(found)} labs have a VM {vm!r}; say {choices}")
    there = ", ".join(f"{name}/{each}" for name in labs for each in LabFolder(name, environ).vm_names())
    raise ConfigError(f"there is no VM {text!r} that runs; there are {there or 'none'}")


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line), "it wrote nothing")
