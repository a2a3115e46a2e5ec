"""What the lab loader takes, the printed JSON Schema takes too, judged by another validator."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from jsonschema import Draft202012Validator

from tests.property.lab.test_load import broken_labs, complaints
from tests.support.labs import labs
from vbackend.lab.model import Lab
from vbackend.lab.schema import schema

EXAMPLES = sorted((Path(__file__).parents[2] / "guests" / "examples").glob("*.toml"))
VALIDATOR = Draft202012Validator(schema())


def data_of(lab: Lab) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(lab.model_dump_json(exclude_none=True))
    return data


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize(
    "data",
    [
        {"vm": {"r1": {"memory": 256}}},
        {"vm": {"r1": {"imge": "small"}}},
        {"cable": [{"ends": ["a:eth0"]}]},
        {"switch": {"lan": {"ports": "a:eth0"}}},
    ],
)
def test_what_it_refuses(data: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(data)
    assert complaints(data)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example(path: Path) -> None:
    VALIDATOR.validate(tomllib.loads(path.read_text()))


@given(labs())
def test_every_lab_is_valid(lab: Lab) -> None:
    VALIDATOR.validate(data_of(lab))


@given(broken_labs())
def test_nothing_is_valid_for_the_loader_alone(data: dict[str, Any]) -> None:
    if not complaints(data):
        VALIDATOR.validate(data)
