"""Unix socket paths: claim one, bind to it, give it back.

For every Unix socket vbackend makes: stream and dgram ports, the control socket. Not for connecting to peers.

Rule: a file is only removed when it is a socket nobody serves, or the very one made here. Claiming and
binding happen under a lock on the directory, so that two processes that start at once cannot take each
other's path. A leading "@" names the abstract namespace, which has no files.
"""

import errno
import fcntl
import os
import socket
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vbackend.errors import ConfigError

__all__ = ["SocketIdentity", "bind_unix", "claim_path", "release_path", "socket_address"]

_PATH_MAX: Final = 107  # bytes; sizeof(sun_path) is 108 with the final NUL (linux/un.h)
_LOCK_PATIENCE: Final = 0.25  # seconds; an honest holder needs microseconds, a hostile one must not stop us
_UCRED: Final = struct.Struct("3i")  # pid, uid, gid: struct ucred of socket(7)


@dataclass(frozen=True, slots=True)
class SocketIdentity:
    """Which file a socket path was when it was made."""

    device: int
    inode: int


def socket_address(path: str) -> str:
    """The address for bind(2) and connect(2): "@NAME" becomes NUL and NAME. ConfigError: too long, empty."""
    if not path or path == "@" or "\0" in path:
        raise ConfigError(f"socket {path!r}: not a path; give a file's path, or @NAME for an abstract socket")
    if (size := len(os.fsencode(path))) > _PATH_MAX:
        raise ConfigError(
            f"socket {path!r}: {size} bytes long; at most {_PATH_MAX} are possible, choose a shorter path"
        )
    return f"\0{path[1:]}" if path.startswith("@") else path


def claim_path(path: str) -> None:
    """See to it that `path` can be bound: remove the stale socket of a dead process.

    Raises `ConfigError` when a living process serves it (named by pid and command) or when it is no socket,
    `OSError` when the host does not let us look or remove.
    """
    address = socket_address(path)
    if not path.startswith("@"):
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise ConfigError(
                f"socket {path!r}: there is a file that is no socket; remove it or choose another path"
            )
    owner = _owner(address)
    if owner is not None:
        raise ConfigError(f"socket {path!r}: in use by {owner}; stop it or choose another path")
    if not path.startswith("@"):
        with suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108 (a path may hold bytes pathlib would normalise)


def bind_unix(
    sock: socket.socket, path: str, *, mode: int | None = None, backlog: int | None = None
) -> SocketIdentity | None:
    """Claim `path` and bind `sock` to it; with `backlog` also listen.

    `mode`: the file's permissions, in force from its first moment; None leaves them to the umask.
    Returns what `release_path` wants; None for an abstract name. Raises as `claim_path`; an error leaves no
    file behind.
    """
    address = socket_address(path)
    with _directory_lock(path):
        claim_path(path)
        if mode is not None:
            os.fchmod(sock.fileno(), mode)  # Linux gives the file the socket's own mode (net/unix/af_unix.c)
        try:
            sock.bind(address)
        except OSError as error:
            hint = "; make its folder first" if error.errno == errno.ENOENT else ""
            raise OSError(error.errno, f"cannot bind: {error.strerror}{hint}", path) from None
        identity = _identity(path)
        try:
            if backlog is not None:
                sock.listen(backlog)
        except OSError:
            _unlink_if(path, identity)
            raise
        return identity


def release_path(path: str, identity: SocketIdentity | None) -> None:
    """Remove the file made by `bind_unix`, and only that: a successor's file at the same path stays."""
    if identity is not None:
        with _directory_lock(path):
            _unlink_if(path, identity)


def _unlink_if(path: str, identity: SocketIdentity | None) -> None:
    if identity is not None and _identity(path) == identity:
        with suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108


def _identity(path: str) -> SocketIdentity | None:
    if path.startswith("@"):
        return None
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return SocketIdentity(found.st_dev, found.st_ino)


def _owner(address: str) -> str | None:
    """Who serves the address, for humans; None: nobody."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        with socket.socket(socket.AF_UNIX, kind) as probe:
            probe.setblocking(False)
            try:
                probe.connect(address)
            except OSError as error:
                match error.errno:
                    case errno.EPROTOTYPE:  # bound, by a socket of another type
                        continue
                    case errno.ECONNREFUSED | errno.ENOENT:
                        return None
                    case errno.EAGAIN:
                        return "a process that does not accept connections at the moment"
                    case _:
                        raise OSError(
                            error.errno, f"cannot see whether it is in use: {error.strerror}", address
                        ) from None
            pid, uid, _ = _UCRED.unpack(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
            return _process(pid, uid)
    return "a process that uses another kind of socket"


def _process(pid: int, uid: int) -> str:
    if pid <= 0:  # datagram sockets have no credentials; 0 is also a process outside our pid namespace
        return "another process"
    try:
        command = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return f"process {pid} of user {uid}"
    return f"process {pid} ({command})"


@contextmanager
def _directory_lock(path: str) -> Iterator[None]:
    """Keep other vbackends from claiming paths in the directory. Without read access there is no lock."""
    directory = -1
    if not path.startswith("@"):
        with suppress(OSError):  # a missing directory is reported by bind, which names the path
            directory = os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if directory >= 0:
            _flock(directory)
        yield
    finally:
        if directory >= 0:
            os.close(directory)


def _flock(directory: int) -> None:
    deadline = time.monotonic() + _LOCK_PATIENCE
    while time.monotonic() < deadline:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.002)
        else:
            return
