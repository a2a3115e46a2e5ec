"""A terminal on a guest's serial console: bytes both ways until ^], the console's end, or the end of the input."""

import contextlib
import os
import select
import socket
import sys
import termios
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from vbackend.errors import HostError
from vbackend.ports.unixsock import socket_address

__all__ = ["ESCAPE", "attach", "copy"]

ESCAPE: Final = b"\x1d"  # ^]
_CHUNK: Final = 4096


def attach(path: Path) -> None:
    """Join stdin and stdout to the console. HostError: it is not there, or somebody else has it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as console:
        try:
            console.connect(socket_address(str(path)))
        except OSError as error:
            raise HostError(f"cannot connect to the console {path}: {error.strerror}") from None
        print("connected; ^] ends", file=sys.stderr)
        with _raw(sys.stdin.fileno()):
            copy(console, sys.stdin.fileno(), sys.stdout.fileno())


def copy(console: socket.socket, keys: int, screen: int) -> None:
    """Copy until `ESCAPE` among the keys, or one side's end."""
    while True:
        ready, _, _ = select.select([console.fileno(), keys], [], [])
        if console.fileno() in ready:
            shown = console.recv(_CHUNK)
            if not shown:
                return
            _write(screen, shown)
        if keys in ready:
            typed = os.read(keys, _CHUNK)
            before, escape, _ = typed.partition(ESCAPE)
            console.sendall(before)
            if escape or not typed:
                return


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


@contextlib.contextmanager
def _raw(fd: int) -> Iterator[None]:
    """Every key as it is, ^C too; nothing to do for what is no terminal."""
    if not os.isatty(fd):
        yield
        return
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
