"""`vbackend show`: ports, peers, traffic, drops and learned addresses of a running backend."""

from typing import Annotated

import typer

from vbackend.cli.options import ControlOption, NameOption

__all__ = ["show"]


def show(
    json: Annotated[bool, typer.Option("--json", help="The answer of `query-status`, as it is.")] = False,
    name: NameOption = None,
    control: ControlOption = None,
) -> None:
    """Show a running backend."""
    import json as json_module
    import os
    import time

    from vbackend.control.client import status
    from vbackend.control.place import control_path

    snapshot = status(control_path(name, control, os.environ))
    if json:
        typer.echo(json_module.dumps(snapshot.model_dump(mode="json"), indent=2))
        return
    from vbackend.cli.render import backend_view, terminal
    from vbackend.dataplane import drop_reasons

    terminal().print(backend_view(snapshot, now=time.time(), reasons=dict(drop_reasons())))
