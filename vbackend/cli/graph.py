"""`vbackend graph`: a lab as a picture."""

from enum import StrEnum
from typing import Annotated

import typer

__all__ = ["graph"]


class Format(StrEnum):
    SVG = "svg"
    MERMAID = "mermaid"


def graph(
    lab: Annotated[str, typer.Argument(metavar="LAB", help="A lab file, or the name of a lab that runs.")],
    format_: Annotated[
        Format, typer.Option("--format", help="A picture, or text for Mermaid, as Markdown takes it.")
    ] = Format.SVG,
    live: Annotated[
        bool, typer.Option("--live", help="What runs, with what goes over its links in one second.")
    ] = False,
) -> None:
    """Draw a lab, to stdout: VMs, switches, the host's ends, and how the cables between them are impaired."""
    import os

    from vbackend.lab.client import link_rates, named_lab, running_lab
    from vbackend.lab.graph import drawing, mermaid
    from vbackend.lab.svg import svg

    named = named_lab(lab, os.environ, host=False)
    found = running_lab(named.name, os.environ) if live or named.lab is None else named.lab
    what = drawing(found, link_rates(named.name, os.environ) if live else None)
    typer.echo(svg(what) if format_ is Format.SVG else mermaid(what), nl=False)
