"""`vbackend` as a child process: start it, wait until it is ready, end it; and QEMU's stream format for peers."""

import json
import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.run import VBACKEND

__all__ = [
    "DEADLINE",
    "Running",
    "connect",
    "environment",
    "frame",
    "running",
    "take",
    "wait_until",
]

DEADLINE = 30.0


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of the condition."""
    end = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {DEADLINE:.0f} s: {what}"
        time.sleep(0.01)
    return found


class Running:
    """A `vbackend run` whose control directory is `home`."""

    def __init__(self, home: Path, child: "subprocess.Popen[str]") -> None:
        self.home = home
        self.child = child

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Another vbackend command beside it."""
        return subprocess.run(
            [*VBACKEND, *arguments],
            env=environment(self.home),
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    def show(self) -> Any:
        done = self.command("show", "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Signal it; returns the status and all it logged."""
        self.child.send_signal(number)
        return self.finished()

    def finished(self) -> tuple[int, str]:
        _, err = self.child.communicate(timeout=DEADLINE)
        return self.child.returncode, err


def environment(home: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "XDG_RUNTIME_DIR": str(home), **more}


@contextmanager
def running(home: Path, *arguments: str, ready: bool = True, **more: str) -> Iterator[Running]:
    """`vbackend run --ready-fd ... arguments`; with `ready` once it said so. Killed at the end when need be."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as pipe:
        try:
            child = subprocess.Popen(
                [*VBACKEND, "run", "--ready-fd", str(writer), *arguments],
                env=environment(home, **more),
                pass_fds=[writer],
                stderr=subprocess.PIPE,
                text=True,
            )
        finally:
            os.close(writer)
        with child:
            try:
                said = pipe.read() if ready else b"READY\n"
                if said != b"READY\n":
                    _, err = child.communicate(timeout=DEADLINE)
                    raise AssertionError(f"said {said!r} for READY; status {child.returncode}: {err}")
                yield Running(home, child)
            finally:
                child.kill()


def connect(path: Path) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(DEADLINE)
    peer.connect(str(path))
    return peer


def frame(text: str, *, source: int = 1) -> bytes:
    """A broadcast frame on QEMU's stream: 4 bytes of length, then the frame."""
    body = b"\xff" * 6 + bytes([0x52, 0x54, 0, 0, 0, source]) + b"\x88\xb5" + text.encode().ljust(46, b"\0")
    return struct.pack(">I", len(body)) + body


def take(peer: socket.socket) -> bytes:
    """One frame with its length."""
    found = b""
    while len(found) < 4 or len(found) < 4 + struct.unpack(">I", found[:4])[0]:
        data = peer.recv(
            4 - len(found) if len(found) < 4 else 4 + struct.unpack(">I", found[:4])[0] - len(found)
        )
        assert data, f"the stream ended after {found!r}"
        found += data
    return found
