"""What the demo starts: a private network namespace, vbackend, a capture. Each registers its undo at once.

The namespace is named after this process, and one whose process is gone is swept away, so even a demo that
was killed leaves nothing for good. Children die with us (setpriv --pdeathsig).
"""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from vbackend.snapshot import BackendSnapshot

__all__ = ["DemoError", "HostPlace", "Vbackend", "capture", "namespace", "start_vbackend"]

PREFIX = "vbackend-demo-"
WITH_US = ("setpriv", "--pdeathsig", "TERM", "--")


class DemoError(Exception):
    """A part of the demo did not start; the text says which and shows its last words."""


@dataclass(frozen=True, slots=True)
class HostPlace:
    """The host's end of the switch: its tap, in the namespace."""

    namespace: str
    addresses: tuple[str, str]
    name: str = "host"

    def sh(self, command: str, *, timeout: float) -> tuple[int, str]:
        done = subprocess.run(
            ["ip", "netns", "exec", self.namespace, "sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        return done.returncode, done.stdout


@dataclass(frozen=True, slots=True)
class Vbackend:
    """A running `vbackend run`."""

    control: Path
    pid: int

    def show_command(self) -> list[str]:
        return [_program(), "show", "--control", str(self.control)]

    def snapshot(self) -> BackendSnapshot:
        return BackendSnapshot.model_validate_json(_checked([*self.show_command(), "--json"]))


def namespace(undo: ExitStack) -> str:
    """Make a network namespace of our own; whatever runs in it at the end is ended with it."""
    for line in _checked(["ip", "netns", "list"]).splitlines():
        old = re.match(rf"{PREFIX}(\d+)\b", line)
        if old and not Path(f"/proc/{old[1]}").exists():
            _remove_namespace(old[0])
    name = f"{PREFIX}{os.getpid()}"
    _checked(["ip", "netns", "add", name])
    undo.callback(_remove_namespace, name)
    _checked(["ip", "-n", name, "link", "set", "lo", "up"])
    return name


def start_vbackend(undo: ExitStack, folder: Path, ports: Sequence[str], log: Path) -> Vbackend:
    """Start `vbackend run` with a switch and wait until every port listens."""
    control = folder / "control.sock"
    ready, theirs = os.pipe()
    undo.callback(os.close, ready)
    try:
        command = [_program(), "run", "--switch", "--name", "demo", "--control", str(control)]
        command += ["--ready-fd", str(theirs), *ports]
        child = _spawn(undo, command, log, pass_fds=(theirs,))
    finally:
        os.close(theirs)
    if not select.select([ready], [], [], 10)[0] or os.read(ready, 64) != b"READY\n":
        raise DemoError(f"vbackend did not get ready:\n{_last_words(log)}")
    return Vbackend(control, child.pid)


def capture(undo: ExitStack, place: HostPlace, interface: str, pcap: Path, log: Path) -> None:
    """Write what passes an interface of the namespace to a file until the end."""
    command = ["ip", "netns", "exec", place.namespace, "tcpdump", "-U", "-Z", "root", "-s", "128"]
    child = _spawn(undo, [*command, "-i", interface, "-w", str(pcap)], log)
    deadline = time.monotonic() + 10
    while "listening on" not in log.read_text():
        if child.poll() is not None or time.monotonic() > deadline:
            raise DemoError(f"tcpdump did not start:\n{_last_words(log)}")
        time.sleep(0.05)


def _program() -> str:
    return str(Path(sys.executable).parent / "vbackend")


def _spawn(
    undo: ExitStack, command: Sequence[str], log: Path, *, pass_fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a child that writes to `log` and ends with us, on SIGTERM, or five seconds later on SIGKILL."""
    with log.open("wb") as sink:
        child = subprocess.Popen(
            [*WITH_US, *command], stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, pass_fds=pass_fds
        )
    undo.callback(_end, child)
    return child


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _remove_namespace(name: str) -> None:
    for pid in _checked(["ip", "netns", "pids", name]).split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    _checked(["ip", "netns", "delete", name])


def _checked(command: Sequence[str]) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DemoError(f"{' '.join(command)}: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return done.stdout


def _last_words(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:]) or "(it wrote nothing)"
