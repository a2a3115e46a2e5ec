"""`vbackend run`: a backend in the foreground."""

from typing import Annotated

import typer

from vbackend.cli.options import PORT_HELP, QueueLimitOption

__all__ = ["run"]


def run(
    ports: Annotated[list[str], typer.Argument(metavar="PORT", help="What to join; see below.")],
    cable: Annotated[
        bool,
        typer.Option(
            "--cable/--switch", help="Two ports and every frame untouched, or many ports and learning."
        ),
    ] = False,
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="Its name for the other commands.")
    ] = "default",
    control: Annotated[
        str | None,
        typer.Option(
            "--control",
            metavar="PATH",
            help="Control socket. [default: $XDG_RUNTIME_DIR/vbackend/NAME.sock or /run/vbackend/NAME.sock]",
        ),
    ] = None,
    queue_limit: QueueLimitOption = 256,
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", min=1, max=64, help="Threads that move frames.")
    ] = 1,
    ready_fd: Annotated[
        int | None,
        typer.Option(
            "--ready-fd", metavar="FD", help="Write READY here once every port listens, then close it."
        ),
    ] = None,
) -> None:
    import logging
    import os

    from vbackend.control.foreground import RunPlan, checked_plan, log_to_stderr, run_to_end
    from vbackend.control.foreground import run as run_plan
    from vbackend.control.place import checked_name, control_path
    from vbackend.control.readiness import checked_ready_fd
    from vbackend.ports.parse import parse_port

    plan = checked_plan(
        RunPlan(
            name=checked_name(name),
            segment="cable" if cable else "switch",
            specs=tuple(parse_port(port) for port in ports),
            control=control_path(name, control, os.environ),
            queue_frames=queue_limit,
            workers=workers,
        )
    )
    ready = None if ready_fd is None else checked_ready_fd(ready_fd)
    log_to_stderr(logging.INFO)
    run_to_end(run_plan(plan, ready, os.environ))


run.__doc__ = f"""Join PORTs in the foreground until SIGINT, SIGTERM, SIGHUP or `quit`.

{PORT_HELP}"""
