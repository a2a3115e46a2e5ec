"""Whole messages out of a socket that may give half ones: non-blocking, with each message's own descriptors.

Rule: never more is asked of the socket than the message at hand still lacks. The kernel ends a read behind bytes that
came with descriptors (net/unix/af_unix.c, unix_stream_read_generic()), so what comes with a message's bytes is that
message's. Nothing longer than the longest request is ever buffered, and every descriptor is closed or handed over.
"""

import array
import socket
from typing import Final

from vbackend.errors import PeerError
from vbackend.fds import OwnedFd
from vbackend.vhost_user.events import Message, Request
from vbackend.vhost_user.messages import (
    HEADER_BYTES,
    MOST_FDS,
    Header,
    parse_header,
    parse_payload,
    request_name,
)

__all__ = ["MessageReader"]

_SCM_MAX_FD: Final = 253  # descriptors of one sendmsg(2) (net/scm.h)
_INT: Final = array.array("i").itemsize


class MessageReader:
    """Reads requests; the socket stays the caller's. Close it for the descriptors of half a message."""

    def __init__(self, sock: socket.socket) -> None:
        self.header: Header | None = None  # of the message that is being read, or that was read last
        self._sock = sock
        self._data = bytearray()
        self._fds: list[OwnedFd] = []
        self._fd_count = 0
        self._in_payload = False

    def read(self) -> Message | None:
        """The next request, whose descriptors are the caller's; None: it is not all there yet.

        EOFError: the peer closed the connection; PeerError: it does not speak vhost-user, or
        breaks the rules of its messages; OSError: the connection is broken.
        """
        if not self._in_payload:
            if not self._fill(HEADER_BYTES):
                return None
            self.header, problem = parse_header(bytes(self._data))
            if problem is not None:
                raise problem
            self._data.clear()
            self._in_payload = True
        assert self.header is not None, "its header was read"
        if not self._fill(self.header.size):
            return None
        payload = parse_payload(self.header, bytes(self._data), self._fd_count)
        fds, self._fds, self._fd_count, self._in_payload = tuple(self._fds), [], 0, False
        self._data.clear()
        return Message(Request(self.header.request), payload, fds, self.header.need_reply)

    def close(self) -> None:
        """Close the descriptors of a message that did not become whole; a second call does nothing."""
        for fd in self._fds:
            fd.close()
        self._fds.clear()

    def _fill(self, size: int) -> bool:
        """Read until there are `size` bytes; False: the peer has not sent them yet."""
        while len(self._data) < size:
            try:
                data, ancillary, flags, _ = self._sock.recvmsg(
                    size - len(self._data), socket.CMSG_SPACE(_SCM_MAX_FD * _INT), socket.MSG_CMSG_CLOEXEC
                )
            except (BlockingIOError, InterruptedError):
                return False
            for level, kind, content in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    self._take(content)
            if flags & socket.MSG_CTRUNC:
                raise PeerError(
                    f"{self._where()}: some of its file descriptors were lost; raise this process's limit"
                )
            if not data:
                raise EOFError(self._cut())
            self._data += data
        return True

    def _take(self, content: bytes) -> None:
        numbers = array.array("i")
        numbers.frombytes(content[: len(content) - len(content) % _INT])
        for number in numbers:
            fd = OwnedFd(number)
            self._fd_count += 1
            if len(self._fds) < MOST_FDS:
                self._fds.append(fd)
            else:
                fd.close()

    def _where(self) -> str:
        return request_name(self.header.request) if self._in_payload and self.header else "a request"

    def _cut(self) -> str:
        cut = f" in the middle of {self._where()}" if self._in_payload or self._data else ""
        return f"the peer closed the connection{cut}"
