"""Recipes of guest images: what they say, and where they lie."""

import tomllib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from vbackend.errors import ConfigError

__all__ = ["RECIPES", "Modules", "Recipe", "extended", "find_recipe", "list_images", "load_recipe"]

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
    # Folders, each copied over those before it. In a file: `overlay`, one, relative to the file.
    overlay: Annotated[tuple[Path, ...], Field(min_length=1)]
    memory_mib: Annotated[int, Field(ge=64, le=65536)]
    cmdline: str
    modules: Modules = Modules()


def extended(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe says that extends another: lists go on where the other's end, tables are joined.

    All else is its own, where it says it.
    """
    joined = {**base, **own}
    for key in base.keys() & own.keys():
        match base[key], own[key]:
            case list() as before, list() as more:
                joined[key] = before + more
            case dict() as before, dict() as more:
                joined[key] = extended(before, more)
    return joined


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
    """Read a recipe file and those it extends.

    ConfigError, with the key that is wrong, when one cannot be read or makes no sense.
    """
    try:
        return Recipe.model_validate(_read(path.resolve(), ()))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the recipe"
        raise ConfigError(f"{path}: {where}: {first['msg']}") from error


def _read(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """A file's keys with those of what it extends; `above` are the files that extend it."""
    if path in above:
        raise ConfigError(f"image recipes extend each other: {', '.join(map(str, above))}")
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read image recipe {path}: {error}") from error
    overlay, name = told.get("overlay"), told.pop("extends", None)
    for key, value in (("overlay", overlay), ("extends", name)):
        if not isinstance(value, str | None):
            raise ConfigError(f"{path}: {key}: must be text, not {value!r}")
    if overlay is not None:
        told["overlay"] = [str(path.parent / overlay)]
    if name is None:
        return told
    beside = path.parent / f"{name.removesuffix('.toml')}.toml"
    base = beside.resolve() if beside.is_file() else find_recipe(name)
    return extended(_read(base, (*above, path)), told)
