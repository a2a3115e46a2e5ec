"""What a failed test leaves of its labs: files in a folder, and the most telling of them in pytest's report."""

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from vbackend.errors import VbackendError
from vbackend.testing.lab import Lab
from vbackend.testing.recorder import Tape

__all__ = ["leave_artifacts"]

_TAIL: Final = 20  # lines of a console


def leave_artifacts(lab: Lab, tape: Tape | None, folder: Path) -> Iterator[tuple[str, str]]:
    """Write what there is into `folder/NAME`; yields title and text of each section of the report.

    links.pcapng, show.txt, daemon.log, and for each VM VM.console.log, VM.qemu.log and VM.command. Whatever is
    missing, the rest is written: a lab that fails may be half dead.
    """
    place = folder / lab.name
    place.mkdir(parents=True, exist_ok=True)
    try:
        shown = lab.show()
    except (VbackendError, OSError) as error:
        shown = f"its daemon does not answer: {error}\n"
    (place / "show.txt").write_text(shown)
    if tape is not None:
        tape.save(place / "links.pcapng")
    _copy(lab.place.log, place / "daemon.log")
    files = f"files: {place}\n"
    yield f"lab {lab.name}", files + shown
    for name in lab.model.vm:
        vm = lab.place.vm(name)
        console = _copy(vm.console_log, place / f"{name}.console.log")
        words = _copy(vm.qemu_log, place / f"{name}.qemu.log")
        command = _copy(vm.command, place / f"{name}.command")
        parts = [f"$ {' '.join(shlex.split(command))}"] if command else []
        parts += [part for part in (_tail(words), _tail(console)) if part]
        yield f"lab {lab.name}, VM {name}", "\n".join(parts)


def _copy(source: Path, target: Path) -> str:
    """Copy a file and return its text; empty when there is none."""
    try:
        shutil.copyfile(source, target)
        return target.read_text(errors="replace")
    except OSError:
        return ""


def _tail(text: str) -> str:
    lines = text.replace("\r", "").rstrip().splitlines()
    return "\n".join(lines[-_TAIL:])
