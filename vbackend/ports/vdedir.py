"""The directory of a VDE switch, as vde_switch has it, and the socket of one of its clients.

    DIR/ctl            where clients ask for a port
    DIR/NUMBER.PID     the switch's end of a client's data
    DIR/.PID-NUMBER    a client's own end, put there by libvdeplug

A directory made here, or left by a switch that is dead, is taken away at the end; any other is left as it was found,
modes included. Sources: vde-2 src/vde_switch/datasock.c, vdeplug4 libvdeplug_vde.c.

Rule: what a client names is opened first and looked at then, so that it is the same file that is connected to.
"""

import errno
import logging
import os
import re
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, Self

from vbackend.errors import ConfigError, PeerError
from vbackend.host.users import group_id
from vbackend.ports.sockets import STREAM_BUFFER, raise_buffers
from vbackend.ports.unixsock import SocketIdentity, bind_unix, claim_path

__all__ = ["SwitchDirectory", "connect_client"]

log = logging.getLogger(__name__)

_MODE: Final = 0o600  # of vde_switch
_PATH_MAX: Final = 107 - len("/1024.4194304")  # bytes: there is room for the longest data socket's name
_DATA: Final = re.compile(r"[0-9]{3,}\.[0-9]+|\.[0-9]{5,}-[0-9]{5,}")


class SwitchDirectory:
    """Claimed with `claim`; `open_up` once somebody listens on `control`; `release` at the end."""

    def __init__(self, path: str, mode: int, gid: int, *, ours: bool) -> None:
        self.path: Final = path  # absolute, without links
        self.control: Final = f"{path}/ctl"
        self.mode: Final = mode  # of the sockets
        self._gid = gid  # -1: as the directory it is made in has it
        self._ours = ours

    @classmethod
    def claim(cls, place: str, mode: int | None, group: str | None) -> Self:
        """Make the directory, or take it over.

        ConfigError: a living switch has it, it is another user's, there is no such group, its path is too long.
        OSError: the host does not let us.
        """
        gid = -1 if group is None else group_id(group)
        path = os.path.realpath(place)
        if (size := len(os.fsencode(path))) > _PATH_MAX:
            raise ConfigError(f"VDE switch {path!r}: {size} bytes long; at most {_PATH_MAX} are possible")
        ours = True
        try:
            os.mkdir(path, 0o700)  # noqa: PTH102 (a path may hold bytes pathlib would normalise)
        except FileExistsError:
            _check_directory(path)
            ours = os.path.lexists(f"{path}/ctl")
            claim_path(f"{path}/ctl")
            if ours:
                with _told("take over the directory", path):
                    os.chmod(path, 0o700)  # noqa: PTH101
        except OSError as error:
            hint = "; make its folder first" if isinstance(error, FileNotFoundError) else ""
            raise OSError(error.errno, f"cannot make it: {error.strerror}{hint}", path) from None
        return cls(path, _MODE if mode is None else mode, gid, ours=ours)

    def open_up(self) -> None:
        """Let in whom the mode allows, and remove what dead clients and switches left. OSError: the host refuses."""
        self._sweep()
        self._grant(self.control)
        if self._ours:
            with _told("share the directory", self.path):
                os.chown(self.path, -1, self._gid)
                os.chmod(self.path, _directory_mode(self.mode))  # noqa: PTH101

    def bind(self, sock: socket.socket, number: int) -> tuple[str, SocketIdentity | None]:
        """Bind the switch's end of a client's data; returns what `release_path` wants. Errors as `bind_unix`."""
        path = f"{self.path}/{number:03}.{os.getpid()}"
        identity = bind_unix(sock, path, mode=self.mode)
        self._grant(path)
        return path, identity

    def release(self) -> None:
        """Remove dead sockets, and the directory unless it was there before or somebody else uses it."""
        self._sweep()
        if self._ours:
            try:
                os.rmdir(self.path)  # noqa: PTH106
            except FileNotFoundError:
                pass
            except OSError as error:
                log.warning("VDE switch %s: its directory stays: %s", self.path, error.strerror)

    def _sweep(self) -> None:
        with suppress(FileNotFoundError):
            for name in os.listdir(self.path):  # noqa: PTH208
                if _DATA.fullmatch(name):
                    with suppress(ConfigError, OSError):  # it lives, or is none of ours
                        claim_path(f"{self.path}/{name}")

    def _grant(self, path: str) -> None:
        """Give a socket made here its group, and the mode that the umask may have narrowed."""
        if self._gid < 0 and not self.mode & 0o077:
            return
        with _told("share the socket", path), _looked_at(path) as (handle, found):
            # Others may write to the directory: no link to another file of ours is given away.
            if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
                raise OSError(errno.EPERM, "somebody put another file in its place")
            os.chown(handle, -1, self._gid)
            os.chmod(handle, self.mode)  # noqa: PTH101


def connect_client(place: bytes, uid: int) -> socket.socket:
    """A datagram socket connected to the one at `place`, which a client of user `uid` says is its own.

    Only it can send to the result. PeerError: it is none of that user's, nobody has it, it has another peer. OSError:
    we have no descriptor left.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        raise_buffers(sock, STREAM_BUFFER)  # of connected ones no count of datagrams is the limit, but this
        if place.startswith(b"\0"):
            sock.connect(place)
        else:
            _connect_path(sock, os.fsdecode(place), uid)
    except OSError as error:
        sock.close()
        raise PeerError(f"the data socket that it names cannot be reached: {error.strerror}") from None
    except BaseException:
        sock.close()
        raise
    return sock


def _connect_path(sock: socket.socket, path: str, uid: int) -> None:
    with _looked_at(path) as (handle, found):
        if not stat.S_ISSOCK(found.st_mode):
            raise PeerError("the data socket that it names is no socket")
        if uid not in (0, found.st_uid):  # else it would have us write where it cannot
            raise PeerError(f"the data socket that it names is of user {found.st_uid}, and it of {uid}")
        sock.connect(handle)


@contextmanager
def _looked_at(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """A path that stays the file that `path` is now, and what that is."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}", os.fstat(fd)
    finally:
        os.close(fd)


@contextmanager
def _told(what: str, path: str) -> Iterator[None]:
    """An OSError says what was attempted."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"cannot {what}: {error.strerror}", path) from None


def _check_directory(path: str) -> None:
    """ConfigError: it is none, or of a user who could do with it what he likes."""
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"VDE switch {path!r}: there is a file that is no directory; choose another path")
    if found.st_uid not in (0, os.geteuid()):
        raise ConfigError(f"VDE switch {path!r}: belongs to user {found.st_uid}; choose another path")


def _directory_mode(mode: int) -> int:
    """Who may use the sockets may enter, and what is made there has the directory's group (vde_switch)."""
    enter = sum(1 << shift for shift in (0, 3, 6) if mode >> shift & 6)
    return stat.S_ISGID | mode | enter
