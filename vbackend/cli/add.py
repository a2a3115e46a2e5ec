"""`vbackend add`: one more port on a running backend."""

from typing import Annotated

import typer

from vbackend.cli.options import PORT_HELP, ControlOption, NameOption

__all__ = ["add"]


def add(
    port: Annotated[str, typer.Argument(metavar="PORT", help="As for `vbackend run`.")],
    name: NameOption = None,
    control: ControlOption = None,
) -> None:
    import os

    from vbackend.control.client import call, port_snapshot
    from vbackend.control.place import control_path
    from vbackend.ports.parse import parse_port

    parse_port(port)
    path = control_path(name, control, os.environ)
    typer.echo(port_snapshot(path, call(path, "port-add", {"port": port})).name)


add.__doc__ = f"""Add a port to a running backend; prints its name.

{PORT_HELP}"""
