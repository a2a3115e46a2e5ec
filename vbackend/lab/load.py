"""Lab files: TOML text to a `Lab`, or what is wrong with it, line by line.

Paths in the file are relative to its folder; the Lab has them absolute. The model judges (model.py), then its parts
against each other (conflicts.py) and against this host (check.py); schema.py has the words for what is expected,
locate.py the lines.
"""

import copy
import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from vbackend.errors import ConfigError
from vbackend.lab.check import host_problems
from vbackend.lab.conflicts import conflicts
from vbackend.lab.locate import key_text, line_of, lines_of
from vbackend.lab.model import Lab, Where
from vbackend.lab.schema import expected, properties

__all__ = ["LabError", "Problem", "load_lab", "parse_lab"]

_ABSENT: Final = object()
_SHOWN: Final = 60  # characters of a value
_WORST: Final = re.compile(r"at line (\d+), column (\d+)")
_UNIX_PORT: Final = re.compile(r"(stream:unix:|unit:|vhost-user:|vde:|dgram:unix:)(?=[^/@,])")
_DGRAM: Final = re.compile(r"(dgram:unix:[^:,]*:)(?=[^/@,])")


@dataclass(frozen=True, slots=True)
class Problem:
    """`origin` is the file, `line` None where there is no text, `where` the way to the key; empty: the whole file."""

    origin: str
    line: int | None
    where: Where
    text: str

    def __str__(self) -> str:
        place = self.origin if self.line is None else f"{self.origin}:{self.line}"
        return ": ".join(word for word in (place, key_text(self.where), self.text) if word)


class LabError(ConfigError):
    """What is wrong with a lab's file; its text is the first of `problems`."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        more = len(problems) - 1
        hint = "" if not more else f" (and {more} more; `vbackend lab check` tells all)"
        super().__init__(f"{problems[0]}{hint}")
        self.problems = problems


def load_lab(path: Path, *, host: bool = True) -> Lab:
    """Read a lab file. Its name is the file's, unless it says otherwise.

    LabError: it cannot be read, or is wrong, or (with `host`) wants what this host has not: files, for instance.
    """
    try:
        os.fsencode(path.absolute()).decode()  # the lab has it, and is kept as JSON
    except UnicodeDecodeError:
        what = "has a path that is not in UTF-8; move it to another folder, or rename it"
        raise LabError((Problem(ascii(str(path)), None, (), what),)) from None
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise LabError((Problem(str(path), None, (), f"cannot be read: {error.strerror}"),)) from None
    except UnicodeDecodeError as error:
        raise LabError((Problem(str(path), None, (), f"is not text in UTF-8: {error.reason}"),)) from None
    return _lab(text, str(path), path.absolute().parent, path.stem, host=host)


def parse_lab(
    source: str | Mapping[str, Any],
    *,
    origin: str = "<string>",
    folder: Path | None = None,
    name: str | None = None,
) -> Lab:
    """A lab from TOML text, or from what such text says.

    `origin`: how errors call the source; `folder`: what its paths are relative to, None: the current one;
    `name`: the lab's when it gives none. LabError: it is wrong.
    """
    return _lab(source, origin, Path.cwd() if folder is None else folder.absolute(), name, host=False)


def _lab(source: str | Mapping[str, Any], origin: str, folder: Path, name: str | None, *, host: bool) -> Lab:
    lines: dict[Where, int] | None = None
    if isinstance(source, str):
        try:
            data = tomllib.loads(source)
        except tomllib.TOMLDecodeError as error:
            raise LabError((_not_toml(origin, source, error),)) from None
        lines = lines_of(source)
    else:
        data = copy.deepcopy(dict(source))
    if name is not None:
        data.setdefault("name", name)
    _make_absolute(data, folder)
    try:
        lab = Lab.model_validate(data)
    except ValidationError as error:
        found = dict(_problems(error.errors(), data))
    else:
        found = dict((*conflicts(lab), *(host_problems(lab) if host else ())))
        if not found:
            return lab
    problems = [
        Problem(origin, None if lines is None else line_of(lines, where), where, text)
        for where, text in found.items()
    ]
    raise LabError(tuple(sorted(problems, key=lambda problem: problem.line or 0)))


def _not_toml(origin: str, text: str, error: tomllib.TOMLDecodeError) -> Problem:
    found = _WORST.search(str(error))
    line = int(found[1]) if found else text.count("\n") + 1
    what = re.sub(r" \(at .*\)$", "", str(error))
    column = f", column {found[2]}" if found else ", at the end"
    return Problem(origin, line, (), f"this is not TOML{column}: {what[:1].lower()}{what[1:]}")


# What pydantic found, in the words of the file


def _problems(errors: list[ErrorDetails], data: object) -> Iterator[tuple[Where, str]]:
    for error in errors:
        context = error.get("ctx", {})
        if error["type"] == "lab":
            yield from context["problems"]
            continue
        where, inside = _within(error["loc"], data)
        match error["type"]:
            case "extra_forbidden":
                yield where, _unknown(where)
            case "missing":
                yield where, f"{key_text(inside)} is missing, expected {expected((*where, *inside))}"
            case "value_error":
                yield where, error["msg"].removeprefix("Value error, ")
            case _:
                yield where, f"found {_shown(_at(data, where))}, expected {expected(where)}"


def _within(loc: tuple[int | str, ...], data: object) -> tuple[Where, Where]:
    """The part of an error's way that is in the data, and the rest that is in the model only and names a key."""
    where: list[int | str] = []
    here = data
    for number, part in enumerate(loc):
        below = _below(here, part)
        if below is _ABSENT:
            named = isinstance(part, int) or part in properties(tuple(where))
            return tuple(where), loc[number : number + 1] if named else ()
        here = below
        where.append(part)
    return tuple(where), ()


def _below(here: object, part: int | str) -> object:
    if isinstance(here, Mapping) and part in here:
        return here[part]
    if isinstance(here, list | tuple) and isinstance(part, int) and part < len(here):
        return here[part]
    return _ABSENT


def _unknown(where: Where) -> str:
    known = properties(where[:-1])
    near = difflib.get_close_matches(str(where[-1]), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    return f"there is no such key; {hint}"


def _at(data: object, where: Where) -> object:
    for part in where:
        data = cast(Any, data)[part]
    return data


_KINDS: Final = {str: "string", bool: "boolean", int: "integer", float: "float", list: "array", dict: "table"}


def _shown(value: object) -> str:
    kind = _KINDS.get(type(value), "date or time")
    text = json.dumps(value, ensure_ascii=False, default=str)
    text = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
    return f"the {kind} {text}"


# Paths


def _make_absolute(data: dict[str, Any], folder: Path) -> None:
    """In place. What is of a wrong type is left for the model to complain about."""
    for vm in _tables(data.get("vm")):
        for key in ("kernel", "initrd", "disk"):
            if isinstance(vm.get(key), str):
                vm[key] = str(folder / vm[key])
        image = vm.get("image")
        if isinstance(image, str) and ("/" in image or image.endswith(".toml")):
            vm["image"] = str(folder / image)
        if isinstance(vm.get("files"), dict):
            vm["files"] = {
                guest: str(folder / host) if isinstance(host, str) else host
                for guest, host in vm["files"].items()
            }
    for capture in _tables(data.get("capture")):
        if isinstance(capture.get("file"), str):
            capture["file"] = str(folder / capture["file"])
    for table, key in ((data.get("switch"), "ports"), (data.get("cable"), "ends")):
        for joined in _tables(table):
            if isinstance(joined.get(key), list):
                joined[key] = [_absolute_port(end, folder) for end in joined[key]]


def _tables(found: object) -> list[dict[str, Any]]:
    values = found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()
    return [value for value in values if isinstance(value, dict)]


def _absolute_port(end: object, folder: Path) -> object:
    """Sockets of PORTs too: the daemon has a working directory of its own."""
    if not isinstance(end, str):
        return end
    before = f"{folder}/".replace(",", ",,")
    for pattern in (_UNIX_PORT, _DGRAM):
        if found := pattern.match(end):
            end = f"{found[1]}{before}{end[found.end() :]}"
    return end
