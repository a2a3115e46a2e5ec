"""`vbackend set`: change a port of a running backend."""

from typing import Annotated

import typer

from vbackend.cli.options import ControlOption, NameOption

__all__ = ["set_"]


def set_(
    port: Annotated[
        str, typer.Argument(metavar="PORT", help="The port's name, as `show` prints it, or a lab's cable.")
    ],
    changes: Annotated[
        list[str],
        typer.Argument(
            metavar="CHANGE",
            help="up, down, queue=FRAMES, queue-bytes=BYTES, rate=BITS (a second), rate=off, burst=BYTES; "
            "delay=, jitter=, overtake=, loss=, duplicate=, corrupt=, reorder=, seed=, hold= as in a PORT, or off; "
            "impair=off ends all of these.",
        ),
    ],
    name: NameOption = None,
    control: ControlOption = None,
    lab: Annotated[
        str | None, typer.Option("--lab", metavar="LAB", help="Of this lab, whose cables can be set too.")
    ] = None,
    forward: Annotated[
        bool, typer.Option("--forward", help="Only from a cable's first end to its second.")
    ] = False,
    back: Annotated[
        bool, typer.Option("--back", help="Only from a cable's second end to its first.")
    ] = False,
) -> None:
    """Change a port while it runs, or a lab's cable."""
    import os

    from vbackend.control.changes import parse_changes
    from vbackend.control.client import call
    from vbackend.control.place import control_path, lab_control_path
    from vbackend.errors import ConfigError

    if lab is not None and (name is not None or control is not None):
        raise ConfigError("--lab: a lab has its own control socket; leave --name and --control out")
    if lab is not None:
        from vbackend.lab.cables import cable_changes
        from vbackend.lab.client import running_lab

        control = lab_control_path(lab, os.environ)
        for cable in running_lab(lab, os.environ).cable:
            if cable.title == port:
                call(control, "cable-set", cable_changes(cable, changes, forward=forward, back=back))
                return
    if forward or back:
        what = f"{port!r} is no cable of lab {lab!r}" if lab is not None else "a cable needs --lab LAB"
        raise ConfigError(f"set: --forward and --back are the directions of a cable; {what}")
    arguments = {"name": port, **parse_changes(changes)}
    call(control_path(name, control, os.environ), "port-set", arguments)
