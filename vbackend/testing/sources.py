"""What a test may call a lab: a file, TOML text, what such text says, or a Lab; and the Lab that is run for it.

Each has a name of its own, so that its MAC addresses are its own too, and its sockets lie in its own folder. Paths are
relative to the test's folder.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from vbackend.errors import ConfigError
from vbackend.lab.load import load_lab, parse_lab
from vbackend.lab.model import Lab

__all__ = ["Source", "content", "read_source", "renamed"]

Source = str | Path | Mapping[str, Any] | Lab

_NAMELESS: Final = "lab"
_NAME_MAX: Final = 20  # of a lab (lab/words.py)


def read_source(source: Source, folder: Path) -> Lab:
    """The lab. LabError: what is wrong with it."""
    match source:
        case Lab():
            return source
        case Mapping():
            return parse_lab(source, origin="<lab>", folder=folder, name=_NAMELESS)
        case str() if re.search(r"[\n=\[]", source):
            return parse_lab(source, origin="<lab>", folder=folder, name=_NAMELESS)
        case str() | Path():
            return load_lab(folder / source)
        case _:
            raise ConfigError(f"lab: {source!r} is neither a file, TOML text, a mapping nor a Lab")


def renamed(lab: Lab, suffix: str, *, sockets_of: Path, sockets_in: Path) -> Lab:
    """The same with a name that ends in `-suffix`; PORTs' sockets below one folder lie below the other."""
    name = f"{lab.name[: _NAME_MAX - len(suffix) - 1].rstrip('-')}-{suffix}"
    text = lab.model_copy(update={"name": name}).model_dump_json()
    before, after = (json.dumps(f":{folder}/")[1:-1] for folder in (sockets_of, sockets_in))
    return Lab.model_validate_json(text.replace(before, after))


def content(lab: Lab) -> str:
    """What two labs have in common that differ in nothing but their names."""
    return lab.model_copy(update={"name": "x"}).model_dump_json()
