"""Telling whoever started us that every port listens: a line on a passed fd, and systemd's sd_notify.

Rule: a listener that is gone is a warning, never the end of a working backend.
"""

import fcntl
import logging
import os
import socket
from collections.abc import Mapping

from vbackend.errors import ConfigError
from vbackend.ports.unixsock import socket_address

__all__ = ["announce_ready", "checked_ready_fd", "notify"]

log = logging.getLogger(__name__)


def checked_ready_fd(fd: int) -> int:
    """The number, when it is an open descriptor that can be written. ConfigError otherwise.

    From now on child processes do not inherit it: whoever waits for its end must not wait for them.
    """
    wanted = "pass the write end of a pipe"
    try:
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    except (OSError, OverflowError, ValueError):
        raise ConfigError(f"--ready-fd {fd}: not an open file descriptor; {wanted}") from None
    if flags & os.O_ACCMODE == os.O_RDONLY:
        raise ConfigError(f"--ready-fd {fd}: open for reading only; {wanted}")
    if fd > 2:
        os.set_inheritable(fd, False)
    return fd


def announce_ready(ready_fd: int | None, environ: Mapping[str, str]) -> None:
    """Write READY and a newline to the descriptor and close it; tell the service manager."""
    if ready_fd is not None:
        try:
            os.write(ready_fd, b"READY\n")
        except OSError as error:
            log.warning("--ready-fd %d: %s", ready_fd, error.strerror)
        _close(ready_fd)
    notify("READY=1", environ)


def notify(state: str, environ: Mapping[str, str]) -> None:
    """Send one state to $NOTIFY_SOCKET (sd_notify(3)); without it there is nothing to do."""
    place = environ.get("NOTIFY_SOCKET", "")
    if not place:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(state.encode(), socket_address(place))
    except (OSError, ConfigError) as error:
        log.warning("NOTIFY_SOCKET %s: %s", place, error)


def _close(fd: int) -> None:
    if fd > 2:
        os.close(fd)
        return
    # A closed standard stream's number would go to the next file opened, and receive what is printed.
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, fd)
    os.close(null)
