"""Recipes of guest images: what they say, and where they lie."""

import tomllib
from pathlib import Path, PurePosixPath
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from vbackend.errors import ConfigError

__all__ = ["RECIPES", "Modules", "Recipe", "find_recipe", "list_images", "load_recipe", "parse_recipe"]

RECIPES: Final = Path(__file__).resolve().parent.parent.parent / "vm-images"


def _absolute(path: PurePosixPath) -> PurePosixPath:
    if not path.is_absolute() or ".." in path.parts:
        raise ValueError("must be a path from the guest's root, as /usr/bin/iperf3")
    return path


PackageName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]+$")]
ModuleName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
GuestPath = Annotated[PurePosixPath, AfterValidator(_absolute)]


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Modules(Strict):
    """Kernel modules by name, without `.ko`; those they depend on come with them."""

    load: tuple[ModuleName, ...] = ()
    available: tuple[ModuleName, ...] = ()


class Recipe(Strict):
    """What a guest image is made of. `small.toml` is a commented example."""

    description: str
    kernel: PackageName
    busybox: PackageName = "busybox-static"
    packages: tuple[PackageName, ...] = ()
    programs: tuple[GuestPath, ...] = ()
    overlay: PurePosixPath  # relative to the recipe
    memory_mib: Annotated[int, Field(ge=64, le=65536)]
    cmdline: str
    modules: Modules = Modules()


def parse_recipe(text: str, origin: str) -> Recipe:
    """Read a recipe. ConfigError names the key that is wrong; `origin` says where it stands."""
    try:
        return Recipe.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin} is not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the recipe"
        raise ConfigError(f"{origin}: {where}: {first['msg']}") from error


def find_recipe(name: str, folder: Path = RECIPES) -> Path:
    """Where a recipe lies: `name` is a recipe of the checkout, or a path to a .toml file.

    ConfigError says which recipes there are.
    """
    path = Path(name) if "/" in name or name.endswith(".toml") else folder / f"{name}.toml"
    if path.is_file():
        return path.resolve()
    known = ", ".join(list_images(folder)) or f"none, there is no {folder}; give the path of a .toml file"
    raise ConfigError(f"there is no image recipe {name!r}; known: {known}")


def list_images(folder: Path = RECIPES) -> list[str]:
    """Names of the recipes in a folder, by default those of the checkout vbackend runs from."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def load_recipe(path: Path) -> Recipe:
    """Read a recipe file. ConfigError when it cannot be read or makes no sense."""
    try:
        return parse_recipe(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read image recipe {path}: {error}") from error
