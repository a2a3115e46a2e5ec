"""The JSON Schema of lab files, for editors; and in words what it expects at a place, for error messages. Pure."""

import json
from functools import cache
from typing import Any, Final

from vbackend.lab.model import Lab, Where

__all__ = ["expected", "node_at", "properties", "schema"]

_FLAGS: Final = ("ra", "dns")  # tables of a switch for which `true` stands too
_WORDS: Final = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "array": "an array",
    "object": "a table",
    "null": "nothing",
}
_PLURALS: Final = {"string": "strings", "integer": "integers", "number": "numbers", "object": "tables"}

Node = dict[str, Any]


def schema() -> Node:
    """JSON Schema (2020-12) of a lab file, which may leave out its name."""
    found = Lab.model_json_schema()
    found = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **found,
        "title": "vbackend lab",
        "description": "A network of guests, switches and cables: `vbackend up FILE` makes it run.",
    }
    found.pop("required", None)
    for flag in _FLAGS:
        found["$defs"]["Switch"]["properties"][flag]["anyOf"].insert(0, {"type": "boolean"})
    return found


@cache
def _root() -> Node:
    return schema()


def _plain(node: Node) -> list[Node]:
    """What a node may be: references followed, alternatives apart, nothing that only the model can be."""
    if "$ref" in node:
        target = _root()["$defs"][node["$ref"].rpartition("/")[2]]
        return _plain(target)
    if "anyOf" in node:
        told = {"examples": node["examples"]} if "examples" in node else {}
        return [
            plain | told for each in node["anyOf"] for plain in _plain(each) if plain.get("type") != "null"
        ]
    return [node]


def node_at(where: Where) -> list[Node]:
    """The schema's alternatives for what stands at `where`; none: nothing may stand there."""
    nodes = _plain(_root())
    for part in where:
        nodes = [plain for node in nodes for below in _below(node, part) for plain in _plain(below)]
    return nodes


def _below(node: Node, part: int | str) -> list[Node]:
    if isinstance(part, int):
        first: list[Node] = node.get("prefixItems", [])
        return first[part : part + 1] or ([node["items"]] if "items" in node else [])
    if part in node.get("properties", {}):
        return [node["properties"][part]]
    if isinstance(node.get("additionalProperties"), dict):
        return [node["additionalProperties"]]
    return list(node.get("patternProperties", {}).values())[:1]


def properties(where: Where) -> tuple[str, ...]:
    """The keys that a table at `where` may have."""
    return tuple(key for node in node_at(where) for key in node.get("properties", ()))


def expected(where: Where) -> str:
    """What the file may have at `where`: "an integer from 1 to 255", 'one of "stream", "vhost-user"'."""
    nodes = node_at(where)
    words = list(dict.fromkeys(_expected(node) for node in nodes))
    return " or ".join(words) or "nothing"


def _expected(node: Node) -> str:
    if "enum" in node:
        return f"one of {', '.join(map(json.dumps, node['enum']))}"
    if "const" in node:
        return json.dumps(node["const"])
    kind = node["type"]
    text = " or ".join(_WORDS[each] for each in ([kind] if isinstance(kind, str) else kind))
    if kind == "array":
        return _array(node)
    if "minimum" in node and "maximum" in node:
        text += f" from {node['minimum']} to {node['maximum']}"
    if "examples" in node:
        text += f" such as {' or '.join(map(json.dumps, node['examples']))}"
    elif "pattern" in node:
        text += f" that matches {node['pattern']}"
    return text


def _array(node: Node) -> str:
    items = node.get("prefixItems") or [node.get("items", {})]
    kinds = {plain.get("type") for item in items for plain in _plain(item)}
    number = (
        {2: "two "}.get(node.get("minItems", 0), "") if node.get("minItems") == node.get("maxItems") else ""
    )
    of = _PLURALS.get(str(*kinds), "values") if len(kinds) == 1 else "values"
    return f"an array of {number}{of}"
