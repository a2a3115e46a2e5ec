"""The client's half of a capture: asks a running backend for one and copies it to a file, packet by packet.

Rule: only whole blocks are written, each as soon as it is there, so that a live reader sees every packet at once and
a file is good however the capture ends. The first of `ending_signals` asks the backend for the end, and what was
captured until then still comes; the second kills.
"""

import select
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import BinaryIO, Final

from pydantic import JsonValue

from vbackend.capture.pcapng import Blocks, Tally
from vbackend.control.client import call
from vbackend.control.signals import ending_signals
from vbackend.errors import ControlError
from vbackend.ports.unixsock import socket_address

__all__ = ["capture"]

_CHUNK: Final = 1 << 18
_PATIENCE_S: Final = 5.0  # for the backend's last words
_LOOK_MS: Final = 500  # how soon a signal is noticed when the backend is silent; it makes patience finite


def capture(path: str, arguments: Mapping[str, JsonValue], open_output: Callable[[], BinaryIO]) -> Tally:
    """Capture until the end and count. `arguments`: those of capture-start. `open_output` is called, and its result
    closed, once the backend has agreed. A reader that goes away is an end like others, noticed at once.

    ConfigError, ControlError, HostError: the backend says no. OSError: the file cannot be written.
    """
    answer = call(path, "capture-start", arguments)
    place = answer.get("path") if isinstance(answer, dict) else None
    if not isinstance(place, str):
        raise ControlError(f"control socket {path}: no place of a capture in {answer!r}; another version?")
    if not place.startswith(("/", "@")):  # relative to the backend's folder, which need not be ours
        place = str(Path(path).with_name(Path(place).name))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        try:
            stream.connect(socket_address(place))
        except OSError as error:
            raise ControlError(f"capture socket {place}: {error.strerror}; try again") from None
        tally = Tally()
        with suppress(BrokenPipeError), open_output() as output, _signals_end(stream):
            _copy(stream, output, tally)
        return tally


def _copy(stream: socket.socket, output: BinaryIO, tally: Tally) -> None:
    blocks = Blocks()
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    poll.register(output, 0)  # a pipe whose reader has gone says so unasked
    while True:
        ready = dict(poll.poll(_LOOK_MS))
        if output.fileno() in ready:
            return
        if not ready and stream.gettimeout() is None:
            continue
        data = _received(stream)
        if not data:
            return
        whole = blocks.feed(data)
        output.write(whole)
        output.flush()
        tally.feed(whole)


def _received(stream: socket.socket) -> bytes:
    """The next bytes; none at the end, which is also when the backend was killed, or is silent after we left."""
    try:
        return stream.recv(_CHUNK)
    except (ConnectionError, TimeoutError):
        return b""


@contextmanager
def _signals_end(stream: socket.socket) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in ending_signals()}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def leave(_number: int, _frame: FrameType | None) -> None:
        restore()
        stream.settimeout(_PATIENCE_S)
        try:
            stream.shutdown(socket.SHUT_WR)
        except OSError:
            return  # the backend was first: its end is already on the way

    for number in before:
        signal.signal(number, leave)
    try:
        yield
    finally:
        restore()
