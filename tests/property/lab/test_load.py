"""Whatever a lab file says, it is a lab, or complaints about places in the file."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.support.labs import labs
from vbackend.lab.load import LabError, Problem, parse_lab
from vbackend.lab.model import Lab

ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.dates()
    | st.sampled_from(("a", "r1:eth0")),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(("name", "x", "ends")), inner, max_size=2)
    ),
    max_leaves=4,
)


def spots(value: Any) -> list[tuple[Any, Any]]:
    """Every container in the data, and a key of it."""
    found = []
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            found += [(value, key), *spots(value[key])]
    return found


@st.composite
def broken_labs(draw: st.DrawFn) -> dict[str, Any]:
    """A lab's data with some of it replaced, removed or added."""
    data: dict[str, Any] = json.loads(draw(labs()).model_dump_json(exclude_none=True))
    for _ in range(draw(st.integers(1, 3))):
        container, key = draw(st.sampled_from(spots(data) or [(data, "name")]))
        match draw(st.sampled_from(("replace", "remove", "add"))):
            case "replace":
                container[key] = draw(ODD)
            case "remove" if isinstance(container, dict):
                container.pop(key, None)
            case _ if isinstance(container, dict):
                container[draw(st.sampled_from(("nmae", "forward", "nic", "x y")))] = draw(ODD)
            case _:
                container.append(draw(ODD))
    return data


def toml(value: Any) -> str:
    """Inline TOML of JSON's types."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[\n" + ",\n".join(map(toml, value)) + "]"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(letter):08x}" for letter in value) + '"'
    return json.dumps(value)


def complaints(source: str | dict[str, Any]) -> tuple[Problem, ...]:
    """None: it is a lab."""
    try:
        parse_lab(source, name="l")
    except LabError as error:
        return error.problems
    return ()


@given(broken_labs())
def test_a_lab_or_complaints(data: dict[str, Any]) -> None:
    for problem in complaints(data):
        assert "\n" not in str(problem)
        assert problem.text


@given(labs())
def test_a_lab_comes_back_from_toml(lab: Lab) -> None:
    data = json.loads(lab.model_dump_json(exclude_none=True))
    text = "\n".join(f"{key} = {toml(value)}" for key, value in data.items())
    assert parse_lab(text, origin="lab.toml") == lab


@given(broken_labs())
def test_the_same_complaints_from_text_but_with_lines(data: dict[str, Any]) -> None:
    plain = json.loads(json.dumps(data, default=str), parse_constant=str)
    if "null" in json.dumps(plain):  # TOML has none
        return
    text = "\n".join(f"{toml(key)} = {toml(value)}" for key, value in plain.items())
    found = complaints(text)
    assert {(each.where, each.text) for each in found} == {
        (each.where, each.text) for each in complaints(plain)
    }
    assert all(each.line and 1 <= each.line <= text.count("\n") + 1 for each in found)
