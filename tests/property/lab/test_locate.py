"""Lines of keys, against documents whose every value says where it stands: it is in the text only once."""

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from vbackend.lab.locate import line_of, lines_of

KEYS = st.sampled_from(("a", "b-c", "d_1", "two words", "é.#", 'say "x"', "1.5", "[k]"))
FILL = st.sampled_from(("", "\n", '# [x] = {1, "a"\n', "\n\n   # '''\n", "  \t"))
BLANKS = st.sampled_from(("", " ", "\t"))


class Writer:
    """Writes TOML at random; every leaf is unlike all others."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.count = 0
        self.data: dict[str, Any] = {}

    def key(self, key: str) -> str:
        plain = all(letter.isascii() and (letter.isalnum() or letter in "-_") for letter in key)
        forms = [key] if plain else []
        forms += [f"'{key}'", '"' + key.replace('"', '\\"') + '"']
        blank = self.draw(BLANKS)
        return blank + self.draw(st.sampled_from(forms)) + blank

    def leaf(self) -> tuple[str, Any]:
        self.count += 1
        mark = f"v{self.count}v"
        raw = self.draw(
            st.sampled_from(
                (
                    f'"{mark}"',
                    f"'{mark}'",
                    f'"{mark} # ] }} \\" ,"',
                    f'"""{mark}\n = 5\n""x"""""',
                    f"'''{mark}\n[y]\n'''",
                    str(9_000_000 + self.count),
                    f"1979-05-27 07:32:00.{100_000 + self.count}",
                    f"1.0{self.count}1e3",
                )
            )
        )
        return raw, tomllib.loads(f"x = {raw}")["x"]

    def value(self, depth: int) -> tuple[str, Any]:
        kind = self.draw(st.sampled_from(("leaf", "array", "table") if depth else ("leaf",)))
        if kind == "leaf":
            return self.leaf()
        if kind == "array":
            values = [self.value(depth - 1) for _ in range(self.draw(st.integers(0, 3)))]
            text = "[" + self.draw(FILL)
            for number, (raw, _) in enumerate(values):
                last = number == len(values) - 1
                text += (
                    raw
                    + self.draw(FILL)
                    + ("" if last and self.draw(st.booleans()) else ",")
                    + self.draw(FILL)
                )
            return text + "\n]", [value for _, value in values]
        keys = self.draw(st.lists(KEYS, max_size=3, unique=True))
        pairs = [(key, *self.value(depth - 1)) for key in keys]
        inside = ",".join(
            f"{self.key(key)}={self.draw(BLANKS)}{raw}{self.draw(BLANKS)}" for key, raw, _ in pairs
        )
        return "{" + inside + "}", {key: value for key, _, value in pairs}

    def pairs(self, into: dict[str, Any]) -> str:
        text = ""
        for key in self.draw(st.lists(KEYS, max_size=3, unique=True)):
            raw, value = self.value(2)
            if self.draw(st.booleans()):
                inner = self.draw(KEYS)
                text += f"{self.key(key)}.{self.key(inner)} = {raw}"
                into[key] = {inner: value}
            else:
                text += f"{self.key(key)} = {raw}"
                into[key] = value
            text += self.draw(BLANKS) + "\n" + self.draw(FILL) + "\n"
        return text

    def document(self) -> str:
        text = self.draw(FILL) + "\n" + self.pairs(self.data)
        for name in self.draw(st.lists(st.sampled_from(("t", "t two", "u")), unique=True)):
            if self.draw(st.booleans()):
                inner = self.draw(KEYS)
                table: dict[str, Any] = {}
                self.data[name] = {inner: table}
                text += f"[{self.key(name)}.{self.key(inner)}]\n" + self.pairs(table)
                continue
            self.data[name] = []
            for _ in range(self.draw(st.integers(1, 3))):
                element: dict[str, Any] = {}
                self.data[name].append(element)
                text += f"[[{self.key(name)}]]{self.draw(FILL)}\n" + self.pairs(element)
                if self.draw(st.booleans()):
                    element["sub"] = {}
                    text += f"[{self.key(name)}.sub]\n" + self.pairs(element["sub"])
        return text


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    writer = Writer(draw)
    return writer.document(), writer.data


def ways(value: Any, where: tuple[str | int, ...] = ()) -> dict[tuple[str | int, ...], Any]:
    found = {where: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        found |= ways(below, (*where, key))
    return found


def mark(value: object) -> str:
    """What of a leaf is in the text as it is."""
    text = value.strftime("%f") if hasattr(value, "strftime") else str(value)
    return text.partition("\n")[0].partition(" ")[0]


@given(documents())
def test_every_way_and_no_other_has_its_line(document: tuple[str, dict[str, Any]]) -> None:
    text, data = document
    assert tomllib.loads(text) == data
    lines = lines_of(text)
    found = ways(data)
    del found[()]
    assert lines.keys() == found.keys()
    for where, value in found.items():
        if isinstance(value, str | int) or hasattr(value, "strftime"):
            assert text.count(mark(value)) == 1
            assert lines[where] == text[: text.index(mark(value))].count("\n") + 1
        assert lines[where] >= lines.get(where[:-1], 1)


@given(st.text(alphabet="ab=[]{}.,\"\n# '1\\", max_size=60), st.lists(st.sampled_from(("a", "b", 0))))
def test_any_text_ends_and_any_way_has_a_line(text: str, where: list[str | int]) -> None:
    assert 1 <= line_of(lines_of(text), tuple(where)) <= text.count("\n") + 1
