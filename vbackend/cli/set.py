"""`vbackend set`: change a port of a running backend."""

from typing import Annotated

import typer

from vbackend.cli.options import ControlOption, NameOption

__all__ = ["set_"]


def set_(
    port: Annotated[str, typer.Argument(metavar="PORT", help="The port's name, as `show` prints it.")],
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
) -> None:
    """Change a port while it runs."""
    import os

    from vbackend.control.changes import parse_changes
    from vbackend.control.client import call
    from vbackend.control.place import control_path

    arguments = {"name": port, **parse_changes(changes)}
    call(control_path(name, control, os.environ), "port-set", arguments)
