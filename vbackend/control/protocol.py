"""QMP's framing and shape, from the server's side: bytes in, messages and calls out.

    server: {"QMP": {"version": {...}, "capabilities": []}}
    client: {"execute": "qmp_capabilities"}
    server: {"return": {}}
    client: {"execute": NAME, "arguments": {...}, "id": ID}
    server: {"return": ..., "id": ID}    or    {"error": {"class": ..., "desc": ...}, "id": ID}
    server, at any time after the negotiation: {"event": NAME, "data": {...}, "timestamp": {...}}

Pure: knows no command but `qmp_capabilities`, no socket, no clock. Source: QEMU docs/interop/qmp-spec.rst.

Rule: whatever the bytes are, `Session.receive` returns; bytes that are no sequence of JSON objects end the
session after an error reply. Memory is bounded by `MAX_MESSAGE` and one read.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from pydantic import JsonValue

from vbackend.errors import PeerError

__all__ = [
    "MAX_DEPTH",
    "MAX_MESSAGE",
    "Call",
    "End",
    "ErrorClass",
    "Message",
    "ObjectSplitter",
    "Send",
    "Session",
    "encode",
    "event_message",
    "version_object",
]

MAX_MESSAGE: Final = 1 << 20  # bytes of one command
MAX_DEPTH: Final = 64  # nested objects and arrays; the commands need two

Message = dict[str, JsonValue]

_SPACE = re.compile(rb"[ \t\r\n]+")
_OUTSIDE_STRING = re.compile(rb'["{}\[\]]')
_INSIDE_STRING = re.compile(rb'["\\]')
_VERSION = re.compile(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?")


class ErrorClass(StrEnum):
    """The `class` of an error reply. The first two are QMP's own."""

    GENERIC = "GenericError"
    COMMAND_NOT_FOUND = "CommandNotFound"
    CONFIG = "ConfigError"  # an argument makes no sense: vbackend.errors.ConfigError


@dataclass(frozen=True, slots=True)
class Send:
    """Send this to the client."""

    message: Message


@dataclass(frozen=True, slots=True)
class Call:
    """Run a command, then send `result(...)` or `error(...)`. Calls of one session are answered in order."""

    name: str
    arguments: Message
    tag: Message = field(default_factory=dict)  # {"id": ...} when the client gave one

    def result(self, value: JsonValue) -> Message:
        return {"return": value, **self.tag}

    def error(self, kind: ErrorClass, text: str) -> Message:
        return _error(kind, text, self.tag)


@dataclass(frozen=True, slots=True)
class End:
    """The session is over; nothing more is to be read."""

    reason: str


class ObjectSplitter:
    """Cuts a byte stream into JSON objects, wherever the stream itself was cut."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0  # everything before was looked at
        self._depth = 0
        self._in_string = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The objects completed by `data`, unparsed. PeerError: no object begins, or it is too large."""
        self._buffer += data
        while (piece := self._next()) is not None:
            yield piece

    def _next(self) -> bytes | None:
        if self._depth == 0:
            if space := _SPACE.match(self._buffer):
                del self._buffer[: space.end()]
            if not self._buffer:
                return None
            if self._buffer[:1] != b"{":
                raise PeerError("JSON parse error: expected an object, that is '{'")
            self._at, self._depth = 1, 1
        while self._depth:
            if not self._step():
                if len(self._buffer) > MAX_MESSAGE:
                    raise PeerError(f"JSON object too large: more than {MAX_MESSAGE} bytes")
                return None
        if self._at > MAX_MESSAGE:
            raise PeerError(f"JSON object too large: more than {MAX_MESSAGE} bytes")
        piece = bytes(self._buffer[: self._at])
        del self._buffer[: self._at]
        return piece

    def _step(self) -> bool:
        """Go behind the next character that matters. False: it is not here yet."""
        pattern = _INSIDE_STRING if self._in_string else _OUTSIDE_STRING
        found = pattern.search(self._buffer, self._at)
        if found is None:
            self._at = len(self._buffer)
            return False
        match found[0]:
            case b"\\":
                if found.end() == len(self._buffer):
                    self._at = found.start()
                    return False
                self._at = found.end() + 1
                return True
            case b'"':
                self._in_string = not self._in_string
            case b"{" | b"[":
                self._depth += 1
                if self._depth > MAX_DEPTH:
                    raise PeerError(f"JSON nested too deep: more than {MAX_DEPTH} levels")
            case _:
                self._depth -= 1
        self._at = found.end()
        return True


class Session:
    """One client's conversation."""

    def __init__(self, version: str) -> None:
        self._version = version
        self._splitter = ObjectSplitter()
        self.negotiated = False  # events are for clients that have
        self.ended = False

    def greeting(self) -> Message:
        return {"QMP": {"version": version_object(self._version), "capabilities": []}}

    def receive(self, data: bytes) -> list[Send | Call | End]:
        """What the client's bytes ask for, in order. After an `End` further bytes are ignored."""
        return [] if self.ended else list(self._actions(data))

    def _actions(self, data: bytes) -> Iterator[Send | Call | End]:
        try:
            for piece in self._splitter.feed(data):
                yield self._command(_parse(piece))
        except PeerError as error:
            self.ended = True
            yield Send(_error(ErrorClass.GENERIC, str(error), {}))
            yield End(str(error))

    def _command(self, request: Message) -> Send | Call:
        tag: Message = {"id": request["id"]} if "id" in request else {}
        name, arguments = request.get("execute"), request.get("arguments", {})
        problem = _shape_problem(request)
        if problem or not isinstance(name, str) or not isinstance(arguments, dict):
            return Send(_error(ErrorClass.GENERIC, problem or "not a command", tag))
        if name == "qmp_capabilities":
            return Send(self._negotiate(arguments, tag))
        if not self.negotiated:
            text = "expecting capabilities negotiation with 'qmp_capabilities'"
            return Send(_error(ErrorClass.COMMAND_NOT_FOUND, text, tag))
        return Call(name, arguments, tag)

    def _negotiate(self, arguments: Message, tag: Message) -> Message:
        if self.negotiated:
            text = "capabilities negotiation is already complete, command ignored"
            return _error(ErrorClass.COMMAND_NOT_FOUND, text, tag)
        if arguments not in ({}, {"enable": []}):
            return _error(ErrorClass.GENERIC, "there are no capabilities to enable", tag)
        self.negotiated = True
        return {"return": {}, **tag}


def encode(message: Mapping[str, JsonValue]) -> bytes:
    """One message on the wire: a line of ASCII."""
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\r\n"


def event_message(name: str, data: Mapping[str, JsonValue], time: float) -> Message:
    """An event; `time` in seconds since the epoch."""
    microseconds = round(time * 1_000_000)
    stamp: Message = {"seconds": microseconds // 1_000_000, "microseconds": microseconds % 1_000_000}
    return {"event": name, "data": dict(data), "timestamp": stamp}


def version_object(version: str) -> Message:
    """`query-version`'s answer. QMP clients want the numbers under "qemu"; they are vbackend's."""
    found = _VERSION.match(version)
    major, minor, micro = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    return {"qemu": {"major": major, "minor": minor, "micro": micro}, "package": f"vbackend {version}"}


def _error(kind: ErrorClass, text: str, tag: Message) -> Message:
    return {"error": {"class": str(kind), "desc": text}, **tag}


def _shape_problem(request: Message) -> str:
    if "execute" not in request:
        return "QMP input lacks member 'execute'"
    if unknown := sorted(set(request) - {"execute", "arguments", "id"}):
        return f"QMP input member {unknown[0]!r} is unexpected; there are execute, arguments and id"
    if not isinstance(request["execute"], str):
        return "QMP input member 'execute' must be a string"
    if not isinstance(request.get("arguments", {}), dict):
        return "QMP input member 'arguments' must be an object"
    return ""


def _parse(piece: bytes) -> Message:
    try:
        found = json.loads(piece.decode(), parse_constant=_no_constant, parse_float=_finite)
    except ValueError as error:  # malformed JSON or UTF-8, or a number with thousands of digits
        raise PeerError(f"JSON parse error: {error}") from None
    if not isinstance(found, dict):
        raise PeerError("JSON parse error: expected an object")
    return found


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is out of range")
    return number
