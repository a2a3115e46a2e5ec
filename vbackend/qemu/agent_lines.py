"""The lines between a host and a guest's agent, both ways: bytes to values and back. vm-images/README.md explains them.

    hello 2                          run ID WINDOW pipe|null :COMMAND
    out ID :DATA, err ID :DATA       in ID :DATA
    room ID in BYTES                 room ID out|err BYTES
    end ID STATUS, fail ID :WHY      signal ID NUMBER, drop ID|all

Pure. Rule: no newline is in a line, whatever data it has, so whoever is lost is found again at the next one. What makes
no sense is no event; a line is never longer than the reader allows.
"""

from dataclasses import dataclass
from typing import Final, Literal, cast

from vbackend.errors import PeerError

__all__ = [
    "CHUNK",
    "COMMAND_MAX",
    "LINE_MAX",
    "WINDOW",
    "Data",
    "Drop",
    "End",
    "Fail",
    "Hello",
    "Line",
    "Lines",
    "Room",
    "Run",
    "Signal",
    "Stream",
    "encode",
]

WINDOW: Final = 1 << 18  # bytes of a stream that may be on their way
CHUNK: Final = 1 << 14  # bytes of data in a line
COMMAND_MAX: Final = (1 << 17) - 1  # bytes; Linux takes no longer argument of a program
LINE_MAX: Final = 2 * COMMAND_MAX + 100  # of the longest command, if each byte is escaped

Stream = Literal["in", "out", "err"]

_MOST_DIGITS: Final = 18
_STREAMS: Final = (b"in", b"out", b"err")


@dataclass(frozen=True, slots=True)
class Hello:
    """The agent has started: all commands before are gone."""


@dataclass(frozen=True, slots=True)
class Run:
    """Start a shell script. `window`: bytes of stdout, and of stderr, that it may send before more `Room` comes."""

    job: int
    command: str
    has_input: bool
    window: int = WINDOW


@dataclass(frozen=True, slots=True)
class Data:
    """Of a stream; none of stdin is its end."""

    job: int
    stream: Stream
    data: bytes


@dataclass(frozen=True, slots=True)
class Room:
    """So many bytes more of a stream may be sent."""

    job: int
    stream: Stream
    count: int


@dataclass(frozen=True, slots=True)
class Signal:
    """To the command and the processes of its group."""

    job: int
    number: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Kill it and say no more of it; None: all there are."""

    job: int | None


@dataclass(frozen=True, slots=True)
class End:
    """It has ended, and all that it wrote was sent."""

    job: int
    status: int  # the shell's: 128 + signal when a signal ended it


@dataclass(frozen=True, slots=True)
class Fail:
    """It could not be started, or nobody knows how it ended."""

    job: int
    why: str


Line = Hello | Run | Data | Room | Signal | Drop | End | Fail


class Lines:
    """Splits what the other side sends into lines, wherever it was cut."""

    def __init__(self, most: int = LINE_MAX) -> None:
        self._most = most
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Line]:
        """The lines that `data` completes, without those that make no sense. PeerError: one is too long."""
        *whole, last = data.split(b"\n")
        found = []
        for part in whole:
            self._add(part)
            line = _parse(bytes(self._rest))
            self._rest.clear()
            if line is not None:
                found.append(line)
        self._add(last)
        return found

    def _add(self, part: bytes) -> None:
        self._rest += part
        if len(self._rest) > self._most:
            raise PeerError(f"a line of more than {self._most} bytes")


def encode(line: Line) -> bytes:
    """A line with its end."""
    match line:
        case Hello():
            return b"\nhello 2\n"  # the empty line ends what a reset cut off
        case Run(job, command, has_input, window):
            head = b"run %d %d %s" % (job, window, b"pipe" if has_input else b"null")
            return _with_data(head, command.encode())
        case Data(job, stream, data):
            return _with_data(b"%s %d" % (stream.encode(), job), data)
        case Room(job, stream, count):
            return b"room %d %s %d\n" % (job, stream.encode(), count)
        case Signal(job, number):
            return b"signal %d %d\n" % (job, number)
        case Drop(job):
            return b"drop all\n" if job is None else b"drop %d\n" % job
        case End(job, status):
            return b"end %d %d\n" % (job, status)
        case Fail(job, why):
            return _with_data(b"fail %d" % job, why.encode())


def _with_data(head: bytes, data: bytes) -> bytes:
    return b"%s :%s\n" % (head, data.replace(b"\x1b", b"\x1ba").replace(b"\n", b"\x1bb"))


def _parse(line: bytes) -> Line | None:
    head, colon, tail = line.partition(b" :")
    words = head.split(b" ")
    if any(word[:1].isdigit() and len(word) > _MOST_DIGITS for word in words):
        return None  # a number that nobody means
    try:
        return (
            _with(words, tail.replace(b"\x1bb", b"\n").replace(b"\x1ba", b"\x1b")) if colon else _bare(words)
        )
    except ValueError:
        return None


def _with(words: list[bytes], data: bytes) -> Line | None:
    match words:
        case [b"out" | b"err" | b"in" as stream, job]:
            return Data(_number(job), _stream(stream), data)
        case [b"run", job, window, b"pipe" | b"null" as stdin]:
            return Run(_number(job), data.decode(), stdin == b"pipe", _number(window))
        case [b"fail", job]:
            return Fail(_number(job), data.decode(errors="replace"))
    return None


def _bare(words: list[bytes]) -> Line | None:
    match words:
        case [b"hello", b"2"]:
            return Hello()
        case [b"room", job, stream, count] if stream in _STREAMS:
            return Room(_number(job), _stream(stream), _number(count))
        case [b"end", job, status]:
            return End(_number(job), _number(status) & 0xFF)
        case [b"signal", job, number]:
            return Signal(_number(job), _number(number))
        case [b"drop", b"all"]:
            return Drop(None)
        case [b"drop", job]:
            return Drop(_number(job))
    return None


def _stream(word: bytes) -> Stream:
    return cast(Stream, word.decode())


def _number(word: bytes) -> int:
    if not word.isdigit():
        raise ValueError(word)
    return int(word)
