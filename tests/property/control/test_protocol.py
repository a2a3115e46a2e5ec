"""Any split of a stream gives the same actions; any garbage gives actions, never an exception."""

import json
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from vbackend.control.protocol import Call, End, Send, Session, encode

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
commands = st.fixed_dictionaries(
    {"execute": st.text(min_size=1).filter(lambda name: name != "qmp_capabilities")},
    optional={"arguments": st.dictionaries(st.text(), values, max_size=3), "id": values},
)
spaces = st.text(" \t\r\n", max_size=3)
likely = st.sampled_from(
    [
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b"\\",
        b'{"execute":"qmp_capabilities"}',
        b'{"execute":"quit","id":1}',
        b"1e999",
        b"\xff",
    ]
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(edges)]


@given(st.lists(st.tuples(commands, spaces, st.booleans())), st.lists(st.integers(0)))
def test_any_split_gives_every_command_in_order(
    stream: list[tuple[dict[str, Any], str, bool]], places: list[int]
) -> None:
    data = b"".join(
        json.dumps(command, ensure_ascii=ascii).encode() + space.encode() for command, space, ascii in stream
    )
    session = Session("1")
    session.receive(b'{"execute":"qmp_capabilities"}')
    actions = [action for piece in cut(data, places) for action in session.receive(piece)]
    expected = [
        Call(
            command["execute"], command.get("arguments", {}), {"id": command["id"]} if "id" in command else {}
        )
        for command, _, _ in stream
    ]
    assert actions == expected


@given(st.lists(st.binary(max_size=40) | likely, max_size=30), st.lists(st.integers(0)))
def test_garbage_gives_error_replies_or_the_end(pieces: list[bytes], places: list[int]) -> None:
    data = b"".join(pieces)
    whole = Session("1")
    actions = whole.receive(data)
    split = Session("1")
    assert [action for piece in cut(data, places) for action in split.receive(piece)] == actions
    assert [isinstance(action, End) for action in actions].count(True) == whole.ended
    for action in actions:
        match action:
            case Send(message):
                assert set(message) - {"id"} in ({"return"}, {"error"})
                encode(message)
            case Call():
                encode(action.result({}))
            case End():
                assert action is actions[-1]
