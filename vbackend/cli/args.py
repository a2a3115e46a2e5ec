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
    memory: Annotated[
        str,
        typer.Option(
            "--memory",
            metavar="SIZE",
            help="For vhost-user: the guest's memory, the same as in -m; 'none' when it is shared already.",
        ),
    ] = "128M",
    accel: Annotated[
        str | None,
        typer.Option("--accel", metavar="kvm|tcg", help="For vhost-user. [default: kvm where it works]"),
    ] = None,
) -> None:
    """Print QEMU's -netdev and -device arguments for a PORT, quoted for the shell.

    A vhost-user port needs the guest's memory to be shared: arguments for that come
    first, unless --memory says none.
    """
    import shlex

    from vbackend.errors import ConfigError
    from vbackend.ports import values
    from vbackend.ports.parse import parse_port
    from vbackend.ports.spec import VhostUserSpec

    spec = parse_port(port)
    if mac is not None:
        try:
            values.mac_address("--mac", mac)
        except ValueError as error:
            raise ConfigError(f"args: {error}") from None
    if accel not in ("kvm", "tcg", None):
        raise ConfigError(f"args: --accel is {accel!r}; give kvm or tcg")
    from vbackend.qemu.accel import accelerator
    from vbackend.qemu.netdev import netdev_arguments
    from vbackend.qemu.options import parse_size, shared_memory
    from vbackend.qemu.version import qemu_version

    version, shared, kvm = qemu_version(qemu), list[str](), False
    if isinstance(spec, VhostUserSpec):
        shared = [] if memory == "none" else shared_memory(parse_size(memory))
        kvm = version.vhost_user_needs_intx and (accel or accelerator(qemu)) == "kvm"
    found = netdev_arguments(spec, version, mac=mac, kvm=kvm)
    typer.echo(shlex.join([*shared, *found.arguments]))
    for note in found.notes:
        typer.echo(f"# {note}", err=True)
