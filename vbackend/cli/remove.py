"""`vbackend remove`: take a port off a running backend."""

from typing import Annotated

import typer

from vbackend.cli.options import ControlOption, NameOption

__all__ = ["remove"]


def remove(
    port: Annotated[str, typer.Argument(metavar="PORT", help="The port's name, as `show` prints it.")],
    name: NameOption = None,
    control: ControlOption = None,
) -> None:
    """Remove a port from a running backend, with all that was made for it."""
    import os

    from vbackend.control.client import call
    from vbackend.control.place import control_path

    call(control_path(name, control, os.environ), "port-remove", {"name": port})
