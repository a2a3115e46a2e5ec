"""The commands that a lab's daemon adds to the control socket, and their arguments.

    lab-status                    LabStatus
    query-stations                what serves each switch: leases, counters
    query-lab                     the Lab that runs, as JSON; null: none yet
    lab-plan lab                  lines: what lab-apply would do
    lab-apply [lab] [file]        become this lab (the Lab as JSON); none: the one that ran last
    lab-down                      everything away; the daemon ends
    vm-exec vm command [timeout]  {stdout, stderr, status}, base64 of at most 1 MiB each
    vm-attach vm                  {path}: a socket for one client that runs commands with streams (relay.py)
    vm-start, vm-stop, vm-restart vm
    vm-save, vm-restore vm tag
    lab-save, lab-restore tag     all VMs, side by side
    cable-set cable [up] [forward] [back]    impairments: all keys of a direction

Everything that changes takes its turn: one after the other. Who hangs up before lab-apply is done has it undone, and
its commands of vm-exec and vm-attach are killed.
"""

import base64
from typing import Final, Protocol, TypeVar

from pydantic import BaseModel, Field, JsonValue, ValidationError

from vbackend.control.commands import Arguments, Command, Desk
from vbackend.errors import ConfigError
from vbackend.lab.model import Impair, Lab
from vbackend.lab.status import LabStatus
from vbackend.lab.words import first_problem
from vbackend.qemu.agent import Result
from vbackend.services.snapshot import StationSnapshot

__all__ = ["EXEC_MAX", "LabDaemonLike", "lab_commands"]

M = TypeVar("M", bound=BaseModel)

EXEC_MAX: Final = 1 << 20  # bytes of output of each kind


class LabDaemonLike(Protocol):
    """What the commands need of the daemon."""

    @property
    def lab(self) -> Lab | None: ...
    def status(self) -> LabStatus: ...
    def stations(self) -> dict[str, StationSnapshot]: ...
    def planned(self, lab: Lab | None) -> list[str]: ...
    async def apply(self, lab: Lab | None, file: str | None) -> None: ...
    async def down(self) -> None: ...
    async def run(self, vm: str, command: str, timeout: float, most: int) -> Result: ...
    def attach(self, vm: str) -> str: ...
    async def vm_start(self, vm: str) -> None: ...
    async def vm_stop(self, vm: str) -> None: ...
    async def vm_restart(self, vm: str) -> None: ...
    async def vm_save(self, vm: str, tag: str) -> None: ...
    async def vm_restore(self, vm: str, tag: str) -> None: ...
    async def save_all(self, tag: str) -> None: ...
    async def restore_all(self, tag: str) -> None: ...
    async def set_cable(
        self, cable: str, up: bool | None, forward: Impair | None, back: Impair | None
    ) -> None: ...


class LabArguments(Arguments):
    lab: JsonValue = None
    file: str | None = None


class NoneArguments(Arguments):
    pass


class VmArguments(Arguments):
    vm: str


class ExecArguments(Arguments):
    vm: str
    command: str
    timeout: float = Field(30.0, gt=0, le=86_400)


class LabTagArguments(Arguments):
    tag: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9._-]{0,62}$")


class TagArguments(LabTagArguments):
    vm: str


class CableArguments(Arguments):
    cable: str
    up: bool | None = None
    forward: dict[str, str] | None = None
    back: dict[str, str] | None = None


def lab_commands(daemon: LabDaemonLike) -> dict[str, Command]:
    """The table, bound to a daemon."""

    async def status(_desk: Desk, _: NoneArguments) -> JsonValue:
        return daemon.status().model_dump(mode="json")

    async def stations(_desk: Desk, _: NoneArguments) -> JsonValue:
        return {switch: each.model_dump(mode="json") for switch, each in daemon.stations().items()}

    async def lab(_desk: Desk, _: NoneArguments) -> JsonValue:
        return None if daemon.lab is None else daemon.lab.model_dump(mode="json")

    async def plan(_desk: Desk, given: LabArguments) -> JsonValue:
        return list(daemon.planned(_lab("lab-plan", given.lab)))

    async def apply(_desk: Desk, given: LabArguments) -> JsonValue:
        await daemon.apply(_lab("lab-apply", given.lab), given.file)
        return {}

    async def down(_desk: Desk, _: NoneArguments) -> JsonValue:
        await daemon.down()
        return {}

    async def run(_desk: Desk, given: ExecArguments) -> JsonValue:
        result = await daemon.run(given.vm, given.command, given.timeout, EXEC_MAX)
        return {
            "stdout": base64.b64encode(result.stdout).decode(),
            "stderr": base64.b64encode(result.stderr).decode(),
            "status": result.status,
        }

    async def attach(_desk: Desk, given: VmArguments) -> JsonValue:
        return {"path": daemon.attach(given.vm)}

    async def start(_desk: Desk, given: VmArguments) -> JsonValue:
        await daemon.vm_start(given.vm)
        return {}

    async def stop(_desk: Desk, given: VmArguments) -> JsonValue:
        await daemon.vm_stop(given.vm)
        return {}

    async def restart(_desk: Desk, given: VmArguments) -> JsonValue:
        await daemon.vm_restart(given.vm)
        return {}

    async def save(_desk: Desk, given: TagArguments) -> JsonValue:
        await daemon.vm_save(given.vm, given.tag)
        return {}

    async def restore(_desk: Desk, given: TagArguments) -> JsonValue:
        await daemon.vm_restore(given.vm, given.tag)
        return {}

    async def save_all(_desk: Desk, given: LabTagArguments) -> JsonValue:
        await daemon.save_all(given.tag)
        return {}

    async def restore_all(_desk: Desk, given: LabTagArguments) -> JsonValue:
        await daemon.restore_all(given.tag)
        return {}

    async def cable(_desk: Desk, given: CableArguments) -> JsonValue:
        forward, back = (
            None if keys is None else _checked("cable-set", Impair, keys)
            for keys in (given.forward, given.back)
        )
        await daemon.set_cable(given.cable, given.up, forward, back)
        return {}

    return {
        "lab-status": Command(NoneArguments, status),
        "query-lab": Command(NoneArguments, lab),
        "query-stations": Command(NoneArguments, stations),
        "lab-plan": Command(LabArguments, plan),
        "lab-apply": Command(LabArguments, apply, for_client=True),
        "lab-down": Command(NoneArguments, down),
        "vm-exec": Command(ExecArguments, run, for_client=True),
        "vm-attach": Command(VmArguments, attach),
        "vm-start": Command(VmArguments, start),
        "vm-stop": Command(VmArguments, stop),
        "vm-restart": Command(VmArguments, restart),
        "vm-save": Command(TagArguments, save),
        "vm-restore": Command(TagArguments, restore),
        "lab-save": Command(LabTagArguments, save_all),
        "lab-restore": Command(LabTagArguments, restore_all),
        "cable-set": Command(CableArguments, cable),
    }


def _lab(command: str, value: JsonValue) -> Lab | None:
    return None if value is None else _checked(command, Lab, value)


def _checked(command: str, model: type[M], value: object) -> M:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ConfigError(f"{command}: {first_problem(error)}") from None
