"""`vbackend lab`: lab files themselves, whether or not they run."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["lab_app"]

lab_app = typer.Typer(help="Check lab files; print their JSON Schema.", rich_markup_mode=None)


@lab_app.command("check")
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A lab file, in TOML.")],
) -> None:
    """Check a lab file: all that is wrong with it, each on its line; exit 2 when something is."""
    from vbackend.lab.load import LabError, load_lab

    try:
        lab = load_lab(file)
    except LabError as error:
        for problem in error.problems:
            typer.echo(str(problem), err=True)
        raise typer.Exit(2) from None
    counts = (
        (len(lab.vm), "VM"),
        (len(lab.switch), "switch"),
        (len(lab.cable), "cable"),
        (len(lab.capture), "capture"),
    )
    words = (
        f"{count} {word}{'' if count == 1 else 'es' if word == 'switch' else 's'}" for count, word in counts
    )
    typer.echo(f"{lab.name}: {', '.join(words)}")


@lab_app.command("schema")
def schema() -> None:
    """Print the JSON Schema of lab files, for editors and other programs."""
    import json

    from vbackend.lab.schema import schema as lab_schema

    typer.echo(json.dumps(lab_schema(), indent=2, ensure_ascii=False))
