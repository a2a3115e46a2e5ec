"""`vbackend args`: what QEMU needs on its command line to be the other end of a PORT."""

from typing import Annotated

import typer

__all__ = ["args"]


def args(
    port: Annotated[str, typer.Argument(metavar="PORT", help="As given to `vbackend run`.")],
    qemu: Annotated[
        str, typer.Option("--qemu", metavar="BINARY", help="The QEMU whose version decides.")
    ] = "qemu-system-x86_64",
    mac: Annotated[str | None, typer.Option("--mac", metavar="MAC", help="The card's address.")] = None,
) -> None:
    """Print QEMU's -netdev and -device arguments for a PORT, quoted for the shell."""
    import shlex

    from vbackend.errors import ConfigError
    from vbackend.ports import values
    from vbackend.ports.parse import parse_port

    spec = parse_port(port)
    if mac is not None:
        try:
            values.mac_address("--mac", mac)
        except ValueError as error:
            raise ConfigError(f"args: {error}") from None
    from vbackend.qemu.netdev import netdev_arguments
    from vbackend.qemu.version import qemu_version

    found = netdev_arguments(spec, qemu_version(qemu), mac=mac)
    typer.echo(shlex.join(found.arguments))
    for note in found.notes:
        typer.echo(f"# {note}", err=True)
