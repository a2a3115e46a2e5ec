"""`vbackend exec`: a command in a guest of a lab, or a backend and a QEMU in one command."""

from typing import Annotated

import typer
import typer.core

from vbackend.cli.guests import VM_WORD, run_in_guest
from vbackend.cli.options import LabOption, QueueLimitOption

__all__ = ["ExecCommand", "exec_"]

NIC_WORDS = ("stream", "dgram", "vhost-user")


class ExecCommand(typer.core.TyperCommand):
    """Keeps what follows `--` apart; the parser would join it to the PORTs."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        at = args.index("--") if "--" in args else len(args)
        ctx.obj = tuple(args[at + 1 :])
        return super().parse_args(ctx, args[:at])


def exec_(
    ctx: typer.Context,
    ports: Annotated[
        list[str] | None,
        typer.Argument(metavar="PORT... -- COMMAND", help="NICs of the guest, and what they are joined to."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Open a control socket of this name.")
    ] = None,
    control: Annotated[
        str | None, typer.Option("--control", metavar="PATH", help="Open a control socket at this path.")
    ] = None,
    queue_limit: QueueLimitOption = 256,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log sessions, as `run` does.")] = False,
    lab: LabOption = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout", metavar="S", min=0.0, help="Of a command in a guest: kill it after S seconds."
        ),
    ] = None,
) -> None:
    """Run a command in a guest of a lab, or start QEMU with its cards joined to PORTs.

    \b
    vbackend exec VM -- COMMAND     VM or LAB/VM: stdin, stdout, stderr and status are the
                                    command's. One word is a shell script, several are quoted.

    \b
    vbackend exec PORT... -- QEMU   exits with QEMU's status

    \b
    PORT `stream`, `dgram` or `vhost-user`, without a place, is a card of this guest
    (name=, mac=); without any there is one. Every other PORT is what the cards are
    joined to, as in `vbackend run`. Two ports make a cable, more a switch.

    \b
    vbackend exec stream:unix:/tmp/other.sock -- qemu-system-x86_64 -m 512 disk.qcow2
    """
    import logging
    import os

    from vbackend.errors import ConfigError

    if ports is not None and len(ports) == 1 and VM_WORD.fullmatch(ports[0]) and ports[0] not in NIC_WORDS:
        if name is not None or control is not None:
            raise ConfigError(
                f"exec: {ports[0]!r} is a VM of a lab, which has its socket; leave --name and --control out"
            )
        raise typer.Exit(run_in_guest(ports[0], lab, ctx.obj, timeout))
    if lab is not None or timeout is not None:
        raise ConfigError(
            "exec: --lab and --timeout are for a command in a guest, `exec VM -- COMMAND`; "
            "leave them out, or name a VM"
        )

    from vbackend.control.foreground import log_to_stderr, run_to_end
    from vbackend.control.launch import plan_launch, run_guest
    from vbackend.control.place import DEFAULT_NAME, checked_name, control_path

    launch = plan_launch(ports or [], ctx.obj)
    path = None if name is None and control is None else control_path(name, control, os.environ)
    log_to_stderr(logging.INFO if verbose else logging.WARNING)
    status = run_to_end(
        run_guest(
            launch,
            name=checked_name(name or DEFAULT_NAME),
            control=path,
            queue_frames=queue_limit,
            environ=os.environ,
        )
    )
    raise typer.Exit(status)
