"""`vbackend console` and `vbackend logs`, and `exec` for guests: one VM of a lab."""

import re
from collections.abc import Sequence
from typing import Annotated, Final

import typer

from vbackend.cli.options import LabOption

__all__ = ["VM_WORD", "console", "logs", "run_in_guest"]

VM_WORD: Final = re.compile(r"([a-z][a-z0-9-]*/)?[a-z][a-z0-9-]*")

VmArgument = Annotated[str, typer.Argument(metavar="VM", help="VM, or LAB/VM.")]


def console(vm: VmArgument, lab: LabOption = None) -> None:
    """Attach the terminal to a guest's serial console; ^] ends."""
    import os

    from vbackend.lab.client import find_vm
    from vbackend.lab.console import attach
    from vbackend.lab.state import LabFolder

    found = find_vm(vm, lab, os.environ)
    attach(LabFolder(found.lab, os.environ).vm(found.vm).console)


def logs(
    vm: VmArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    qemu: Annotated[
        bool, typer.Option("--qemu", help="What QEMU wrote, in place of the guest's console.")
    ] = False,
    lab: LabOption = None,
) -> None:
    """Print what a guest's console has shown since its start."""
    import os
    import sys
    import time

    from vbackend.lab.client import find_vm
    from vbackend.lab.state import LabFolder

    found = find_vm(vm, lab, os.environ)
    place = LabFolder(found.lab, os.environ).vm(found.vm)
    with (place.qemu_log if qemu else place.console_log).open("rb") as file:
        while True:
            sys.stdout.buffer.write(file.read())
            sys.stdout.buffer.flush()
            if not follow or not place.folder.exists():
                return
            time.sleep(0.2)


def run_in_guest(word: str, lab: str | None, command: Sequence[str], timeout: float | None) -> int:
    """`vbackend exec VM -- COMMAND`: returns the command's status. `timeout` in seconds; None: no limit."""
    import os
    import shlex

    from vbackend.control.place import lab_control_path
    from vbackend.errors import ConfigError
    from vbackend.lab.client import find_vm
    from vbackend.lab.remote import attach_command

    found = find_vm(word, lab, os.environ)
    if not command:
        raise ConfigError(
            f"exec: no command; write it after --, for instance `vbackend exec {word} -- ip addr`"
        )
    script = command[0] if len(command) == 1 else shlex.join(command)
    path = lab_control_path(found.lab, os.environ)
    return attach_command(path, found.vm, script, timeout=timeout)
