"""`vbackend graph`: a lab as a picture."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["graph"]


class Format(StrEnum):
    SVG = "svg"
    MERMAID = "mermaid"


def graph(
    lab: Annotated[Path, typer.Argument(metavar="LAB", help="A lab file.")],
    format_: Annotated[
        Format, typer.Option("--format", help="A picture, or text for Mermaid, as Markdown takes it.")
    ] = Format.SVG,
) -> None:
    """Draw a lab, to stdout: VMs, switches, the host's ends, and how the cables between them are impaired."""
    from vbackend.lab.graph import drawing, mermaid
    from vbackend.lab.load import load_lab
    from vbackend.lab.svg import svg

    what = drawing(load_lab(lab, files=False))
    typer.echo(svg(what) if format_ is Format.SVG else mermaid(what), nl=False)
