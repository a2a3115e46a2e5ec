"""The conversation as tables: bytes in, messages and calls out."""

import json

import pytest
from pydantic import JsonValue

from vbackend.control.protocol import (
    MAX_DEPTH,
    MAX_MESSAGE,
    Call,
    End,
    ErrorClass,
    ObjectSplitter,
    Send,
    Session,
    encode,
    event_message,
    version_object,
)
from vbackend.errors import PeerError

NEGOTIATE = b'{"execute":"qmp_capabilities"}'


def talk(*pieces: bytes, negotiated: bool = True) -> list[Send | Call | End]:
    session = Session("1.2.3")
    if negotiated:
        assert session.receive(NEGOTIATE) == [Send({"return": {}})]
    return [action for piece in pieces for action in session.receive(piece)]


def described(actions: list[Send | Call | End]) -> list[str]:
    found = []
    for action in actions:
        match action:
            case Send({"error": {"class": kind, "desc": text}}):
                found.append(f"{kind}: {text}")
            case Send(message):
                found.append(json.dumps(message))
            case Call(name):
                found.append(f"call {name}")
            case End(reason):
                found.append(f"end: {reason}")
    return found


def test_greeting_has_what_clients_want() -> None:
    assert Session("0.1.0").greeting() == {
        "QMP": {
            "version": {"qemu": {"major": 0, "minor": 1, "micro": 0}, "package": "vbackend 0.1.0"},
            "capabilities": [],
        }
    }


@pytest.mark.parametrize(
    ("version", "numbers"),
    [
        ("1.2.3", (1, 2, 3)),
        ("1.2.3.dev4+g1", (1, 2, 3)),
        ("7", (7, 0, 0)),
        ("0+unknown", (0, 0, 0)),
        ("x", (0, 0, 0)),
    ],
)
def test_version_object(version: str, numbers: tuple[int, int, int]) -> None:
    major, minor, micro = numbers
    expected = {"qemu": {"major": major, "minor": minor, "micro": micro}, "package": f"vbackend {version}"}
    assert version_object(version) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"execute":"quit"}', [Call("quit", {})]),
        (b' \r\n{"execute":"quit","arguments":{}}\r\n', [Call("quit", {})]),
        (
            b'{"execute":"a","id":7}{"execute":"b","id":null}',
            [Call("a", {}, {"id": 7}), Call("b", {}, {"id": None})],
        ),
        (
            b'{"execute":"a","arguments":{"x":"}{\\"]"},"id":{"y":[1]}}',
            [Call("a", {"x": '}{"]'}, {"id": {"y": [1]}})],
        ),
        (b'{"execute":"a","arguments":{"x":"\\\\"}}', [Call("a", {"x": "\\"})]),
        ('{"execute":"ü"}'.encode(), [Call("ü", {})]),
        (b"", []),
        (b" \n\t\r", []),
        (b'{"execute":', []),
    ],
)
def test_calls(data: bytes, expected: list[Call]) -> None:
    assert talk(data) == expected
    assert talk(*(bytes([byte]) for byte in data)) == expected


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"{}", "GenericError: QMP input lacks member 'execute'"),
        (b'{"exec-oob":"a"}', "GenericError: QMP input lacks member 'execute'"),
        (
            b'{"execute":"a","control":{}}',
            "GenericError: QMP input member 'control' is unexpected; there are execute, arguments and id",
        ),
        (b'{"execute":1}', "GenericError: QMP input member 'execute' must be a string"),
        (b'{"execute":"a","arguments":[]}', "GenericError: QMP input member 'arguments' must be an object"),
        (b'{"execute":"a","arguments":null}', "GenericError: QMP input member 'arguments' must be an object"),
        (NEGOTIATE, "CommandNotFound: capabilities negotiation is already complete, command ignored"),
    ],
)
def test_wrong_shape_is_answered_and_the_session_goes_on(data: bytes, text: str) -> None:
    assert described(talk(data, b'{"execute":"quit"}')) == [text, "call quit"]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"hello", "JSON parse error: expected an object, that is '{'"),
        (b"[1]", "JSON parse error: expected an object"),
        (b"\x00", "JSON parse error: expected an object"),
        (b"GET / HTTP/1.1\r\n\r\n", "JSON parse error: expected an object"),
        (b"{]", "JSON parse error: "),
        (b"{a}", "JSON parse error: "),
        (b'{"execute":"\xff"}', "JSON parse error: "),
        (b'{"execute":"a\nb"}', "JSON parse error: "),
        (b'{"execute":"a","id":NaN}', "JSON parse error: NaN is not JSON"),
        (b'{"execute":"a","id":1e999}', "JSON parse error: 1e999 is out of range"),
        (b'{"id":' + b"1" * 5000 + b"}", "JSON parse error: "),
        (b"{" + b"[" * MAX_DEPTH, "JSON nested too deep"),
        (b'{"' + b"x" * MAX_MESSAGE, "JSON object too large"),
        (b'{"execute":"' + b"x" * MAX_MESSAGE + b'"}', "JSON object too large"),
    ],
)
def test_garbage_is_answered_and_ends_the_session(data: bytes, text: str) -> None:
    found = described(talk(b'{"execute":"first"}' + data, b'{"execute":"late"}'))
    assert found[0] == "call first"
    assert found[1].startswith(f"GenericError: {text}")
    assert found[2].startswith(f"end: {text}")
    assert len(found) == 3


def test_largest_object_passes() -> None:
    shell = b'{"execute":"a","id":""}'
    data = shell.replace(b'""', b'"' + b"x" * (MAX_MESSAGE - len(shell)) + b'"')
    assert len(data) == MAX_MESSAGE
    assert described(talk(data)) == ["call a"]
    assert described(talk(data.replace(b'"x', b'"xx')))[1].startswith("end: JSON object too large")


def test_deepest_object_passes() -> None:
    inner = b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1)
    assert described(talk(b'{"execute":"a","id":' + inner + b"}")) == ["call a"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            b'{"execute":"quit","id":1}',
            ["CommandNotFound: expecting capabilities negotiation with 'qmp_capabilities'"],
        ),
        (NEGOTIATE + b'{"execute":"quit"}', ['{"return": {}}', "call quit"]),
        (b'{"execute":"qmp_capabilities","arguments":{"enable":[]},"id":"x"}', ['{"return": {}, "id": "x"}']),
        (
            b'{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}',
            ["GenericError: there are no capabilities to enable"],
        ),
    ],
)
def test_negotiation(data: bytes, expected: list[str]) -> None:
    assert described(talk(data, negotiated=False)) == expected


def test_errors_before_and_after_negotiation_carry_the_id() -> None:
    for negotiated in (False, True):
        (action,) = talk(b'{"execute":5,"id":[1]}', negotiated=negotiated)
        assert isinstance(action, Send)
        assert action.message["id"] == [1]


def test_replies_carry_the_tag() -> None:
    call = Call("x", {}, {"id": 9})
    assert call.result({"a": 1}) == {"return": {"a": 1}, "id": 9}
    assert call.error(ErrorClass.CONFIG, "no") == {"error": {"class": "ConfigError", "desc": "no"}, "id": 9}
    assert Call("x", {}).result([]) == {"return": []}


@pytest.mark.parametrize(
    ("time", "stamp"), [(0.0, (0, 0)), (1.5, (1, 500_000)), (1_700_000_000.999_999_9, (1_700_000_001, 0))]
)
def test_event_message(time: float, stamp: tuple[int, int]) -> None:
    data: dict[str, JsonValue] = {"port": "a"}
    expected = {
        "event": "PORT_ADDED",
        "data": data,
        "timestamp": {"seconds": stamp[0], "microseconds": stamp[1]},
    }
    assert event_message("PORT_ADDED", data, time) == expected


def test_encoding_is_one_ascii_line() -> None:
    line = encode({"return": "ü\n\ud800"})
    assert line.endswith(b"\r\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == {"return": "ü\n\ud800"}


def test_splitter_gives_what_came_before_the_error() -> None:
    pieces = ObjectSplitter().feed(b"{}{}x")
    assert next(pieces) == b"{}"
    assert next(pieces) == b"{}"
    with pytest.raises(PeerError):
        next(pieces)
