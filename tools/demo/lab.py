"""What the demo starts: a private network namespace, vbackend, a capture. Each registers its undo at once.

Namespace and folder are named after this process, and those whose process is gone are swept away, so even a
demo that was killed leaves nothing for good. Children die with us (setpriv --pdeathsig).
"""

import asyncio
import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.support.guest import GuestError, PingResult, parse_ping
from vbackend.snapshot import BackendSnapshot

__all__ = ["DemoError", "HostPlace", "Vbackend", "capture", "namespace", "socket_folder", "start_vbackend"]

PREFIX = "vbackend-demo-"
WITH_US = ("setpriv", "--pdeathsig", "TERM", "--")


class DemoError(Exception):
    """A part of the demo did not start; the text says which and shows its last words."""


class HostPlace:
    """The host's end of the switch: its tap, in the namespace."""

    name = "host"

    def __init__(self, undo: AsyncExitStack, namespace: str, addresses: tuple[str, str], log: Path) -> None:
        self.namespace = namespace
        self.addresses = addresses
        self._undo = undo
        self._log = log

    async def ping(self, address: str) -> PingResult:
        command = ["ping", "-n", "-q", "-i", "0.1", "-W", "3", "-c", "5", address]
        done = await asyncio.to_thread(self._run, command)
        try:
            return parse_ping(done.stdout)
        except GuestError as error:
            raise DemoError(f"the host cannot ping {address}: {done.stderr.strip() or error}") from error

    async def iperf_server(self) -> None:
        command = ["ip", "netns", "exec", self.namespace, "iperf3", "--server", "--one-off"]
        child = _spawn(self._undo, command, self._log)
        deadline = time.monotonic() + 10
        while ":5201 " not in self._run(["ss", "--tcp", "--listening", "--numeric"]).stdout:
            if child.poll() is not None or time.monotonic() > deadline:
                raise DemoError(f"iperf3 did not start on the host:\n{_last_words(self._log)}")
            await asyncio.sleep(0.05)

    def _run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        words = ["ip", "netns", "exec", self.namespace, *command]
        return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


@dataclass(frozen=True, slots=True)
class Vbackend:
    """A running `vbackend run`."""

    control: Path
    pid: int

    def show_command(self) -> list[str]:
        return [_program(), "show", "--control", str(self.control)]

    async def show(self) -> None:
        """`vbackend show`, on our stdout."""
        sys.stdout.flush()
        await asyncio.to_thread(subprocess.run, self.show_command(), stdin=subprocess.DEVNULL, check=False)

    def snapshot(self) -> BackendSnapshot:
        return BackendSnapshot.model_validate_json(_checked([*self.show_command(), "--json"]))


def socket_folder(undo: AsyncExitStack) -> Path:
    """Make a folder for sockets; its path is short, since a Unix socket's may have 107 bytes."""
    for old in Path(tempfile.gettempdir()).glob("vb-*"):
        if _of_the_dead(old.name.removeprefix("vb-")):
            shutil.rmtree(old)
    folder = Path(tempfile.gettempdir(), f"vb-{os.getpid()}")
    folder.mkdir(mode=0o700)
    undo.callback(shutil.rmtree, folder)
    return folder


def namespace(undo: AsyncExitStack) -> str:
    """Make a network namespace of our own; whatever runs in it at the end is ended with it."""
    for line in _checked(["ip", "netns", "list"]).splitlines():
        old = re.match(rf"{PREFIX}(\d+)\b", line)
        if old and _of_the_dead(old[1]):
            _remove_namespace(old[0])
    name = f"{PREFIX}{os.getpid()}"
    _checked(["ip", "netns", "add", name])
    undo.callback(_remove_namespace, name)
    _checked(["ip", "-n", name, "link", "set", "lo", "up"])
    return name


def start_vbackend(undo: AsyncExitStack, folder: Path, ports: Sequence[str], log: Path) -> Vbackend:
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


def capture(undo: AsyncExitStack, namespace: str, interface: str, pcap: Path, log: Path) -> None:
    """Write what passes an interface of the namespace to a file until the end."""
    command = ["ip", "netns", "exec", namespace, "tcpdump", "-U", "-Z", "root", "-s", "128"]
    child = _spawn(undo, [*command, "-i", interface, "-w", str(pcap)], log)
    deadline = time.monotonic() + 10
    while "listening on" not in log.read_text():
        if child.poll() is not None or time.monotonic() > deadline:
            raise DemoError(f"tcpdump did not start:\n{_last_words(log)}")
        time.sleep(0.05)


def _program() -> str:
    return str(Path(sys.executable).parent / "vbackend")


def _spawn(
    undo: AsyncExitStack, command: Sequence[str], log: Path, *, pass_fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a child that writes to `log` and ends with us, on SIGTERM, or five seconds later on SIGKILL."""
    with log.open("wb") as sink:
        child = subprocess.Popen(
            [*WITH_US, *command],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            pass_fds=pass_fds,
            process_group=0,  # Ctrl-C is for us: we end it in order
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


def _of_the_dead(pid: str) -> bool:
    return pid.isdecimal() and not Path(f"/proc/{pid}").exists()


def _checked(command: Sequence[str]) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DemoError(f"{' '.join(command)}: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return done.stdout


def _last_words(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:]) or "(it wrote nothing)"
