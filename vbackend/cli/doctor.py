"""`vbackend doctor`: what this host can do, and how to get what it cannot."""

import typer

__all__ = ["doctor"]


def doctor() -> None:
    """Check what this host offers: devices, privileges, QEMU; exit 1 when something essential lacks."""
    from vbackend.cli.render import findings_view, terminal
    from vbackend.host.probe import findings

    found = findings()
    terminal().print(findings_view(found))
    if any(not finding.ok for finding in found):
        raise typer.Exit(1)
