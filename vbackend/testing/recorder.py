"""Captures that tests make: read in a thread from a lab's daemon, kept as packets, or as the last of a long file."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pydantic import JsonValue

from vbackend.capture.filter import FrameFilter
from vbackend.capture.pcapng import Blocks
from vbackend.errors import ControlError, PeerError
from vbackend.ports.unixsock import socket_address
from vbackend.testing.control import LabControl
from vbackend.testing.frames import listed
from vbackend.testing.packets import Packet, PacketReader, preamble

__all__ = ["Recording", "Reel", "Tape"]

_CHUNK: Final = 1 << 18
_PATIENCE_S: Final = 5.0  # for the daemon's last words
_TAPE_MAX: Final = 16 << 20  # bytes of the half that is being written


class Reel:
    """A capture that is running; `sink` is given whole blocks, in a thread, until `stop` or the lab's end."""

    def __init__(
        self,
        control: LabControl,
        sink: Callable[[bytes], None],
        *,
        links: Sequence[str] = (),
        filter: str | None = None,
    ) -> None:
        """ConfigError: no such link, no filter expression. ControlError: there is no daemon."""
        arguments: dict[str, JsonValue] = {"links": list(links)}
        answer = control.execute("capture-start", arguments | ({} if filter is None else {"filter": filter}))
        place = answer.get("path") if isinstance(answer, dict) else None
        if not isinstance(place, str):
            raise ControlError(f"capture of lab {control.name!r}: no place in {answer!r}; another version?")
        self._sink: Final = sink
        self._sock: Final = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._sock.connect(socket_address(place))
        except BaseException:
            self._sock.close()
            raise
        self._begun: Final = threading.Event()
        self._thread: Final = threading.Thread(target=self._run, name=f"capture {control.name}", daemon=True)
        self._thread.start()
        self._begun.wait(_PATIENCE_S)

    def stop(self) -> None:
        """End it; all that was captured until now is given to the sink first. A second call does nothing."""
        if self._thread.is_alive():
            with contextlib.suppress(OSError):  # the lab was first
                self._sock.shutdown(socket.SHUT_WR)
            self._thread.join(_PATIENCE_S)
        self._sock.close()

    def _run(self) -> None:
        blocks = Blocks()
        while True:
            try:
                data = self._sock.recv(_CHUNK)
                whole = blocks.feed(data)
            except (OSError, PeerError):
                data = whole = b""
            if whole:
                self._sink(whole)
            self._begun.set()  # its head has come, so from now on nothing is missed
            if not data:
                return


class Recording:
    """A capture by a test: packets as they come, and all of them in a pcapng file.

    with link.capture("icmp") as recording:
        ...
    assert len(recording.packets) == 2
    """

    def __init__(
        self, control: LabControl, path: Path, *, links: Sequence[str], filter: str | None = None
    ) -> None:
        self.path: Final = path
        self._changed: Final = threading.Condition()
        self._packets: list[Packet] = []
        self._taken: Final[set[int]] = set()
        self._reader: Final = PacketReader()
        self._file: Final = path.open("wb", buffering=0)
        try:
            self._reel: Final = Reel(control, self._more, links=links, filter=filter)
        except BaseException:
            self._file.close()
            path.unlink()
            raise

    @property
    def packets(self) -> list[Packet]:
        """Those there are until now, in the order of the capture."""
        with self._changed:
            return list(self._packets)

    def expect(self, filter: str, timeout: float = 5.0) -> Packet:
        """The first packet that libpcap's filter expression matches and that was not asked for, waiting for one.

        AssertionError with what came instead.
        """
        wanted, deadline, seen = FrameFilter(filter), time.monotonic() + timeout, 0
        with self._changed:
            while True:
                for number in range(seen, len(self._packets)):
                    if number not in self._taken and wanted.matches(self._packets[number].frame):
                        self._taken.add(number)
                        return self._packets[number]
                seen = len(self._packets)
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    raise AssertionError(
                        f"no {filter!r} within {timeout:g} s; there is {listed(self._packets)}"
                    )

    def stop(self) -> None:
        """End it. `packets` and `path` are complete then."""
        self._reel.stop()
        self._file.close()

    def _more(self, blocks: bytes) -> None:
        self._file.write(blocks)
        with self._changed:
            self._packets += self._reader.feed(blocks)
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Tape:
    """The last 16 to 32 MiB of all links of a lab, for the case that a test fails. Two files that take turns."""

    def __init__(self, control: LabControl, folder: Path, *, most: int = _TAPE_MAX) -> None:
        self._halves: Final = tuple(folder / f"{control.name}.{half}.pcapng" for half in ("old", "new"))
        self._most: Final = most
        self._head = b""
        self._length = 0
        self._lock: Final = threading.Lock()
        for half in self._halves:
            half.unlink(missing_ok=True)
        self._file = self._halves[1].open("wb", buffering=0)
        try:
            self._reel: Final = Reel(control, self._more)
        except BaseException:
            self._file.close()
            raise

    def stop(self) -> None:
        self._reel.stop()
        self._file.close()

    def save(self, path: Path) -> None:
        """Write what there is into one file."""
        with self._lock:
            path.write_bytes(b"".join(half.read_bytes() for half in self._halves if half.exists()))

    def _more(self, blocks: bytes) -> None:
        with self._lock:
            if self._length > self._most:
                self._file.close()
                self._halves[1].replace(self._halves[0])
                self._file = self._halves[1].open("wb", buffering=0)
                self._length = self._file.write(self._head)
            self._head += preamble(blocks)
            self._length += self._file.write(blocks)
