"""`vbackend image`: the small guest images tests and the demo boot."""

from typing import Annotated

import typer

__all__ = ["image_app"]

image_app = typer.Typer(help="Build and list guest images.", rich_markup_mode=None)


@image_app.command("build")
def build(name: Annotated[str, typer.Argument(metavar="NAME", help="A recipe; see `image list`.")]) -> None:
    """Build a guest image, unless it is in the cache; print where it lies."""
    from vbackend.images import build_image

    typer.echo(str(build_image(name, progress=lambda text: typer.echo(text, err=True)).folder))


@image_app.command("list")
def list_() -> None:
    """List the images there are recipes for."""
    from vbackend.images import list_images

    for line in list_images():
        typer.echo(line)
