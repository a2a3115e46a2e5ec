"""A guest in Python: the other end of a stream or vhost-user port, for tests that need frames and no operating system.

guest = FakeGuest("stream:unix:/tmp/a.sock")     the PORT as `vbackend run` and the lab file have it
guest.send(frame)
reply = guest.expect("icmp and src 10.0.0.2")
"""

import socket
import time
from collections import deque
from types import TracebackType
from typing import Final, Self, SupportsBytes

from vbackend.capture.filter import FrameFilter
from vbackend.errors import ConfigError
from vbackend.ports.parse import parse_port
from vbackend.ports.spec import StreamSpec, TcpAddress, UnixAddress, VhostUserSpec
from vbackend.ports.unixsock import SocketIdentity, bind_unix, release_path, socket_address
from vbackend.testing.frames import frame_line, listed
from vbackend.testing.wires import StreamWire, VhostWire, Wire

__all__ = ["PATIENCE_S", "FakeGuest"]

PATIENCE_S: Final = 5.0
_BACKLOG: Final = 4096  # frames that came and were not asked for; the oldest go first
_LATE_S: Final = 0.1  # for frames that were there before a deadline and are looked at after it
_PAUSE_S: Final = 0.02  # between attempts to connect


class FakeGuest:
    """One guest with one card. Not for several threads at once, nor for the thread of the backend's event loop.

    Frames are Ethernet frames without FCS, as bytes or as anything that `bytes` takes, such as scapy's packets.
    They are kept in the order they came until they are asked for. As with any guest, vbackend may see a stream's
    connection a moment after it is made; until then frames for this guest are lost.
    """

    def __init__(self, port: str, *, packed: bool = False, timeout: float = PATIENCE_S) -> None:
        """`port`: a `stream` or `vhost-user` PORT. Where vbackend listens this connects, and waits until it does;
        where vbackend dials (key `dial`) this listens, and `wait_connected` or the first frame waits for it.

        `packed`: packed rings instead of split ones. ConfigError: not such a PORT. TimeoutError: nobody listens.
        """
        spec = parse_port(port)
        if not isinstance(spec, StreamSpec | VhostUserSpec):
            raise ConfigError(f"fake guest: {port!r} is neither a stream nor a vhost-user port")
        self.port: Final = port
        self._spec: Final = spec
        self._packed: Final = packed
        self._wire: Wire | None = None
        self._listener: socket.socket | None = None
        self._file: SocketIdentity | None = None
        self._waiting: Final = deque[bytes](maxlen=_BACKLOG)
        if spec.dial:
            self._listen()
        else:
            self._use(self._connect(time.monotonic() + timeout))

    def wait_connected(self, timeout: float = PATIENCE_S) -> None:
        """Wait until vbackend and this are connected. TimeoutError: they are not."""
        self._connected(time.monotonic() + timeout)

    def send(self, frame: SupportsBytes, *, timeout: float = PATIENCE_S) -> None:
        """Send one frame. TimeoutError: vbackend does not take it. ConnectionError: it hung up."""
        deadline = time.monotonic() + timeout
        self._connected(deadline).send(bytes(frame), deadline)

    def recv(self, timeout: float = PATIENCE_S) -> bytes:
        """The oldest frame that was not asked for yet, waiting for one. TimeoutError, ConnectionError as `send`."""
        if self._waiting:
            return self._waiting.popleft()
        return self._receive(time.monotonic() + timeout)

    def expect(self, filter: str, timeout: float = PATIENCE_S) -> bytes:
        """The oldest frame that libpcap's filter expression matches, waiting for one; the others stay.

        AssertionError with what came instead. ConfigError: no filter expression.
        """
        wanted = FrameFilter(filter)
        if (found := self._take(wanted)) is not None:
            return found
        deadline = time.monotonic() + timeout
        while True:
            try:
                frame = self._next(deadline)
            except TimeoutError:
                came = listed([frame_line(frame) for frame in self._waiting])
                raise AssertionError(f"no {filter!r} within {timeout:g} s; there is {came}") from None
            if wanted.matches(frame):
                return frame
            self._waiting.append(frame)

    def expect_none(self, filter: str, within: float = 0.5) -> None:
        """Wait for that long. AssertionError: a frame that the filter matches is there, or comes."""
        wanted, deadline = FrameFilter(filter), time.monotonic() + within
        found = self._take(wanted)
        while found is None:
            try:
                self._waiting.append(self._next(deadline))
            except TimeoutError:
                return
            found = self._take(wanted)
        raise AssertionError(f"there is a frame of {filter!r}: {frame_line(found)}")

    def close(self) -> None:
        """Hang up. A second call does nothing."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        self._stop_listening()

    def _receive(self, deadline: float) -> bytes:
        return self._connected(deadline).receive(deadline)

    def _next(self, deadline: float) -> bytes:
        """The same, but there is an end also when frames come so fast that nobody ever has to wait for one."""
        if time.monotonic() > deadline + _LATE_S:
            raise TimeoutError(f"fake guest of {self.port}: too late")
        return self._receive(deadline)

    def _take(self, wanted: FrameFilter) -> bytes | None:
        for frame in self._waiting:
            if wanted.matches(frame):
                self._waiting.remove(frame)
                return frame
        return None

    def _connected(self, deadline: float) -> Wire:
        if self._wire is not None:
            return self._wire
        if self._listener is None:
            raise ConnectionError(f"fake guest of {self.port}: it is closed")
        self._listener.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            sock, _ = self._listener.accept()
        except TimeoutError:
            raise TimeoutError(f"fake guest of {self.port}: vbackend did not dial") from None
        wire = self._use(sock)
        self._stop_listening()
        return wire

    def _use(self, sock: socket.socket) -> Wire:
        if isinstance(self._spec, VhostUserSpec):
            self._wire = VhostWire(sock, packed=self._packed)
        else:
            self._wire = StreamWire(sock)
        return self._wire

    def _connect(self, deadline: float) -> socket.socket:
        while True:
            sock, address = _socket(self._spec.address)
            try:
                sock.settimeout(max(0.001, deadline - time.monotonic()))
                sock.connect(address)
                return sock
            except (FileNotFoundError, ConnectionRefusedError, BlockingIOError, TimeoutError):
                sock.close()
                if time.monotonic() > deadline:
                    raise TimeoutError(f"fake guest of {self.port}: nobody listens there") from None
                time.sleep(_PAUSE_S)
            except BaseException:
                sock.close()
                raise

    def _listen(self) -> None:
        place = self._spec.address
        sock, address = _socket(place)
        try:
            if isinstance(place, UnixAddress):
                self._file = bind_unix(sock, place.path, backlog=1)
            else:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(address)
                sock.listen(1)
        except BaseException:
            sock.close()
            raise
        self._listener = sock

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            if isinstance(self._spec.address, UnixAddress):
                release_path(self._spec.address.path, self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _socket(place: UnixAddress | TcpAddress) -> tuple[socket.socket, str | tuple[str, int]]:
    """An unconnected socket for a place, and its address there."""
    if isinstance(place, UnixAddress):
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), socket_address(place.path)
    family, kind, protocol, _, address = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)[
        0
    ]
    return socket.socket(family, kind, protocol), (str(address[0]), int(address[1]))
