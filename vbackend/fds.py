"""One owner per file descriptor.

An `OwnedFd` closes its descriptor exactly once; handing it on (`detach`) leaves the old owner empty.
Forgetting one is a `ResourceWarning`, which the tests turn into a failure.
"""

import os
import socket
import warnings
from types import TracebackType
from typing import Self

__all__ = ["OwnedFd"]


class OwnedFd:
    """Sole owner of an open file descriptor."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        if fd < 0:
            raise ValueError(f"not a file descriptor: {fd}")
        self._fd = fd

    @classmethod
    def from_socket(cls, sock: socket.socket) -> Self:
        """Take a socket's descriptor; the socket object is empty afterwards."""
        return cls(sock.detach())

    def fileno(self) -> int:
        """The descriptor, still owned here. ValueError once closed or detached."""
        if self._fd < 0:
            raise ValueError("file descriptor is closed or was handed on")
        return self._fd

    def detach(self) -> int:
        """Give the descriptor away: the caller closes it."""
        fd = self.fileno()
        self._fd = -1
        return fd

    def duplicate(self) -> Self:
        """Another descriptor of the same open file, with an owner of its own."""
        return type(self)(os.dup(self.fileno()))

    def close(self) -> None:
        """Close; a second call does nothing."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    @property
    def closed(self) -> bool:
        return self._fd < 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __repr__(self) -> str:
        return f"OwnedFd({self._fd})" if self._fd >= 0 else "OwnedFd(closed)"
