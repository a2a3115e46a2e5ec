"""Ways into a lab file: how they are written, and on which line of a TOML text each leads, which tomllib does not tell.

Pure. A reader for text that tomllib has read: it recognises where things begin and end, and judges nothing.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Final

from vbackend.lab.model import Where

__all__ = ["key_text", "line_of", "lines_of"]

_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE: Final = re.compile(r"[ \t]*")
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR: Final = re.compile(
    r"[^\s,\]}#]+(?: [0-9]{2}:[^\s,\]}#]+)?"
)  # a date may have a space before its time
_STRING: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}(?!")'
    r"|'''.*?'{3,5}(?!')"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)


def key_text(where: Where) -> str:
    """A way into the file as its author would write it: vm.r1.args[0]."""
    text = ""
    for part in where:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            word = part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else json.dumps(part, ensure_ascii=False)
            text += f".{word}" if text else word
    return text


def lines_of(text: str) -> dict[Where, int]:
    """Lines, counted from 1, of every way into the document; of a table the line that names it first.

    `text`: what `tomllib.loads` takes; else the result means little.
    """
    reader = _Reader(text)
    reader.document()
    return reader.lines


def line_of(lines: Mapping[Where, int], where: Where) -> int:
    """The line of `where`, or of the closest that encloses it; 1 when nothing does."""
    for length in range(len(where), 0, -1):
        if where[:length] in lines:
            return lines[where[:length]]
    return 1


class _Reader:
    def __init__(self, text: str) -> None:
        self._text: Final = text
        self._at = 0
        self._line = 1
        self._counted = 0  # up to where newlines are in `_line`
        self._last: Final[dict[Where, int]] = {}  # the last element of each array of tables
        self.lines: Final[dict[Where, int]] = {}

    def document(self) -> None:
        table: Where = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            if self._take("[["):
                table = self._element(self._keys())
                self._take("]]")
            elif self._take("["):
                table = self._table(self._keys())
                self._take("]")
            else:
                self._pair(table)
            self._skip(_BLANK)

    def _table(self, keys: list[str]) -> Where:
        """Where a header leads: through the last elements of arrays on the way."""
        where: Where = ()
        for key in keys:
            where = (*where, key)
            self._note(where)
            if where in self._last:
                where = (*where, self._last[where])
        return where

    def _element(self, keys: list[str]) -> Where:
        array = (*self._table(keys[:-1]), keys[-1])
        self._note(array)
        self._last[array] = self._last.get(array, -1) + 1
        where = (*array, self._last[array])
        self._note(where)
        return where

    def _pair(self, table: Where) -> None:
        where = table
        for key in self._keys():
            where = (*where, key)
            self._note(where)
        self._take("=")
        self._skip(_SPACE)
        self._value(where)

    def _value(self, where: Where) -> None:
        if self._take("["):
            self._several("]", where)
        elif self._take("{"):
            self._several("}", where)
        elif not self._skip(_STRING) and not self._skip(_SCALAR):
            self._at += 1  # not TOML: go on, so that this ends

    def _several(self, end: str, where: Where) -> None:
        """The inside of an array or an inline table, and its end."""
        count = 0
        self._skip(_BLANK)
        while self._at < len(self._text) and not self._take(end):
            if end == "]":
                self._note((*where, count))
                self._value((*where, count))
                count += 1
            else:
                self._pair(where)
            self._skip(_BLANK)
            self._take(",")
            self._skip(_BLANK)

    def _keys(self) -> list[str]:
        keys = [self._key()]
        while self._take("."):
            keys.append(self._key())
        return keys

    def _key(self) -> str:
        self._skip(_SPACE)
        raw = self._skip(_BARE) or self._skip(_STRING)
        self._skip(_SPACE)
        if not raw:
            self._at += 1
        if raw[:1] not in ("'", '"'):
            return raw
        try:
            return str(tomllib.loads(f"key = {raw}")["key"])
        except tomllib.TOMLDecodeError:
            return raw  # not TOML

    def _note(self, where: Where) -> None:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        self.lines.setdefault(where, self._line)

    def _skip(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            return ""
        self._at = found.end()
        return found[0]

    def _take(self, word: str) -> bool:
        if not self._text.startswith(word, self._at):
            return False
        self._at += len(word)
        return True
