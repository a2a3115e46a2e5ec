"""`vbackend up`, `down`, `plan`, `apply` and `ps`: labs as a whole."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

__all__ = ["apply", "down", "plan", "ps", "up"]

LabArgument = Annotated[
    str, typer.Argument(metavar="LAB", help="A lab file, or the name of a lab that runs.")
]


def up(
    lab: LabArgument,
    foreground: Annotated[
        bool,
        typer.Option(
            "--foreground", help="Stay until Ctrl-C or a closed terminal, then take everything down."
        ),
    ] = False,
) -> None:
    """Start a lab, or make a running one what its file says.

    Returns when all guests are up. Guests whose vbackend was killed are taken
    over, not started again. When something fails, all is as it was before.
    """
    import os

    from vbackend.lab.client import apply_lab, ensure_daemon, named_lab

    named = named_lab(lab, os.environ)
    if foreground:
        _foreground(named)
        return
    ensure_daemon(named.name, os.environ)
    _tell_other_file(named)
    with _progress() as tell:
        apply_lab(named, os.environ, tell)


def down(lab: LabArgument) -> None:
    """Stop a lab and take away all that was made for it."""
    import os

    from vbackend.control.place import lab_names
    from vbackend.errors import ConfigError
    from vbackend.lab.client import down as take_down
    from vbackend.lab.client import named_lab

    name = lab if lab in lab_names(os.environ) else named_lab(lab, os.environ, host=False).name
    if name not in lab_names(os.environ):
        raise ConfigError(f"lab {name!r} does not run")
    take_down(name, os.environ)


def plan(lab: LabArgument) -> None:
    """Print what `apply` would change."""
    import os

    from vbackend.control.client import call
    from vbackend.control.place import lab_control_path
    from vbackend.lab.client import is_served, named_lab
    from vbackend.lab.plan import plan as plan_steps
    from vbackend.lab.plan import summary

    named = named_lab(lab, os.environ)
    lines: list[Any]
    if is_served(named.name, os.environ):
        given = {} if named.lab is None else {"lab": named.lab.model_dump(mode="json")}
        answer = call(lab_control_path(named.name, os.environ), "lab-plan", given)
        lines = answer if isinstance(answer, list) else []
    else:
        lines = list(summary(plan_steps(None, named.lab)))
    for line in lines:
        typer.echo(line)


def apply(lab: LabArgument) -> None:
    """Change a running lab into what its file says, under its guests.

    When a step fails, all is undone.
    """
    import os

    from vbackend.errors import ConfigError
    from vbackend.lab.client import apply_lab, is_served, named_lab

    named = named_lab(lab, os.environ)
    if not is_served(named.name, os.environ):
        raise ConfigError(f"lab {named.name!r} does not run; start it with `vbackend up {lab}`")
    with _progress() as tell:
        apply_lab(named, os.environ, tell)


def ps(
    lab: Annotated[str | None, typer.Argument(metavar="LAB", help="A running lab. [default: all]")] = None,
    json: Annotated[bool, typer.Option("--json", help="The answers of `lab-status`, as a list.")] = False,
) -> None:
    """List running labs, their guests and links."""
    import json as json_module
    import os
    import time

    from vbackend.cli.lab_view import dead_line, lab_view
    from vbackend.cli.render import terminal
    from vbackend.control.place import lab_names
    from vbackend.errors import ControlError
    from vbackend.lab.client import dead_guests, is_served, named_lab, status

    names = lab_names(os.environ) if lab is None else [named_lab(lab, os.environ, host=False).name]
    served = [name for name in names if is_served(name, os.environ)]
    found, silent = [], []
    for name in served:
        try:
            found.append(status(name, os.environ))
        except ControlError as error:  # the others are shown all the same
            silent.append(error)
    if json:
        typer.echo(json_module.dumps([each.model_dump(mode="json") for each in found], indent=2))
    else:
        for each in found:
            terminal().print(lab_view(each, now=time.time()))
        for name in sorted(set(names) - set(served)):
            terminal().print(dead_line(name, dead_guests(name, os.environ)))
    for other in silent[1:]:
        typer.echo(str(other), err=True)
    if silent:
        raise silent[0]


def _tell_other_file(named: Any) -> None:
    """That the lab of this name came from another file: it may be another lab altogether."""
    import os

    from vbackend.lab.client import status

    runs = status(named.name, os.environ).file
    if None not in (named.file, runs) and named.file != runs:
        typer.echo(f"lab {named.name} was started from {runs}; it becomes what {named.file} says", err=True)


def _foreground(named: Any) -> None:
    import logging
    import os

    from vbackend.control.foreground import log_to_stderr, run_to_end
    from vbackend.errors import ConfigError
    from vbackend.lab.daemon import enter_namespace, live
    from vbackend.lab.state import LabFolder

    lab = named.lab or LabFolder(named.name, os.environ).read().running
    if lab is None:
        raise ConfigError(f"lab {named.name!r}: nothing ran before; give its file")
    outside = enter_namespace(named.name, os.environ)
    log_to_stderr(logging.INFO)
    run_to_end(live(named.name, outside, wanted=lab, file=named.file))


class _Lines:
    """Progress: a line for each step that is done, and what is being done below them."""

    def __init__(self, say: Callable[[str], None], active: Callable[[str], None]) -> None:
        self._say = say
        self._active = active
        self._doing: dict[str, str] = {}

    def __call__(self, event: str, data: Mapping[str, Any]) -> None:
        if event == "VM_STATE" and data["state"] in ("building", "booting"):
            words = f"{data['state']} {data['reason']}".strip()
            self._doing[f"vm {data['vm']}"] = f"{data['vm']}: {words}"
        elif event == "VM_STATE":
            self._doing.pop(f"vm {data['vm']}", None)
        elif event == "LAB_PROGRESS" and data["state"] != "begin":
            undo = "undo: " if data["undo"] else ""
            self._say(f"{undo}{data['step']}" + (f": {data['error']}" if data["error"] else ""))
        self._active("   ".join(self._doing.values()))


def _progress() -> Any:
    from contextlib import contextmanager

    from rich.console import Console

    console = Console(stderr=True, highlight=False, markup=False)

    @contextmanager
    def shown() -> Any:
        with console.status("") as status:
            yield _Lines(console.print, status.update)

    return shown()
