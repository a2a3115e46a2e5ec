"""`vbackend run` as users have it: a process of its own, ready when it says so, seen through its control socket.

    with vbackend_run(tmp_path, "tap:tap0,netns=lab", f"stream:unix:{tmp_path}/a") as run:
        run.wait_for(lambda: run.port("a").state == "connected", "a guest on port a")

A block that is left in peace ends with the accounting identity checked and an orderly stop; after a failure the
process is killed. Blocking, also in async tests: what is waited for happens in another process.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.support import asan
from tests.support.accounting import assert_accounts
from vbackend.snapshot import BackendSnapshot, PortSnapshot

__all__ = ["DEADLINE_S", "VBACKEND", "NotReadyError", "Run", "vbackend_run", "wait_until"]

DEADLINE_S: Final = 20.0
_ROOT: Final = Path(__file__).resolve().parents[2]
VBACKEND: Final = (sys.executable, "-c", "from vbackend.cli.main import main; main()")  # the command
_PROGRAM: Final = (
    *(sys.executable, "-c"),
    "from tests.support.asan import load_engine; load_engine(); from vbackend.cli.main import main; main()",
    "run",
)


class NotReadyError(Exception):
    """The process ended without saying READY."""

    def __init__(self, status: int, log: str) -> None:
        super().__init__(f"vbackend run ended with status {status} before it was ready: {log}")
        self.status: Final = status
        self.log: Final = log


def wait_until(condition: Callable[[], object], what: str, *, within_s: float = DEADLINE_S) -> None:
    """Wait until `condition()` is true. AssertionError with `what` when it is not within the deadline."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:.0f} s: {what}"
        time.sleep(0.01)


class Run:
    """A running `vbackend run`."""

    def __init__(self, child: subprocess.Popen[bytes], control: Path, log: Path) -> None:
        self.pid: Final = child.pid
        self.control: Final = control
        self._child = child
        self._log = log

    def snapshot(self) -> BackendSnapshot:
        """What `vbackend show --json` prints."""
        return BackendSnapshot.model_validate(_execute(self.control, "query-status"))

    def port(self, name: str) -> PortSnapshot:
        ports = {port.name: port for port in self.snapshot().ports}
        assert name in ports, f"there is no port {name!r} but {', '.join(ports)}"
        return ports[name]

    def wait_for(self, condition: Callable[[], object], what: str, *, within_s: float = DEADLINE_S) -> None:
        """`wait_until`, over at once when the process ends."""
        wait_until(lambda: self._child.poll() is not None or condition(), what, within_s=within_s)
        assert self._child.poll() is None, f"vbackend ended while waiting for {what}: {self.log()}"

    def wait_connected(self, *names: str) -> None:
        for name in names:
            self.wait_for(lambda name=name: self.port(name).state == "connected", f"port {name} connected")  # type: ignore[misc]

    def set(self, port: str, *words: str) -> None:
        """`vbackend set`."""
        command = [*VBACKEND, "set", port, *words, "--control", str(self.control)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        assert done.returncode == 0, done.stderr

    def log(self) -> str:
        """All it logged until now."""
        return self._log.read_text()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; returns the exit status, as subprocess has it."""
        self._child.send_signal(number)
        try:
            return self._child.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"still there {DEADLINE_S:.0f} s after {number.name}: {self.log()}"
            ) from None

    def crashed(self) -> bool:
        """Whether the process is over in a way that no test asked for."""
        return self._child.poll() not in (None, 0, -signal.SIGTERM, -signal.SIGKILL)

    def leave(self) -> None:
        """Check the accounts and stop in order, unless the test has ended the process itself.

        AssertionError with the log when it crashed.
        """
        assert not self.crashed(), f"status {self._child.returncode}: {self.log()}"
        if self._child.poll() is None:
            assert_accounts(self.snapshot())
            status = self.stop()
            assert status == 0, f"status {status}: {self.log()}"
            assert "Traceback" not in self.log(), self.log()


@contextmanager
def vbackend_run(
    folder: Path,
    *arguments: str,
    name: str = "test",
    prefix: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Iterator[Run]:
    """Start it, wait for READY, end it. NotReadyError when it ends before.

    `folder`: for the control socket, NAME.control, and the log, NAME.log. `prefix`: a command that becomes the one
    behind it (ip netns exec, setpriv).
    """
    control, log = folder / f"{name}.control", folder / f"{name}.log"
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as ready:
        try:
            with log.open("wb") as stderr:
                child = subprocess.Popen(
                    [
                        *prefix,
                        *_PROGRAM,
                        *("--name", name, "--control", str(control), "--ready-fd", str(writer)),
                        *arguments,
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=stderr,
                    stderr=stderr,
                    pass_fds=[writer],
                    env={**os.environ, "PYTHONPATH": str(_ROOT), **asan.environment(), **(environ or {})},
                )
        finally:
            os.close(writer)
        with child:
            try:
                _await_ready(child, ready.fileno(), log)
                asan.assert_watched(child.pid)
                run = Run(child, control, log)
                try:
                    yield run
                except BaseException as failure:
                    if run.crashed():
                        failure.add_note(f"vbackend crashed with status {child.returncode}: {run.log()}")
                    raise
                run.leave()
            finally:
                child.kill()


def _await_ready(child: subprocess.Popen[bytes], ready: int, log: Path) -> None:
    readable, _, _ = select.select([ready], [], [], DEADLINE_S)
    assert readable, f"neither ready nor over within {DEADLINE_S:.0f} s: {log.read_text()}"
    said = os.read(ready, 100)
    if said != b"READY\n":
        raise NotReadyError(child.wait(DEADLINE_S), log.read_text())


def _execute(control: Path, command: str) -> Any:
    """One command on a connection of its own, in QMP's manner; events are passed over."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(DEADLINE_S)
        sock.connect(str(control))
        with sock.makefile("rwb") as wire:
            assert "QMP" in json.loads(wire.readline())
            for each in ("qmp_capabilities", command):
                wire.write(json.dumps({"execute": each}).encode() + b"\n")
                wire.flush()
                answer: dict[str, Any] = {"event": ""}
                while "event" in answer:
                    answer = json.loads(wire.readline())
                assert "return" in answer, f"{each}: {answer}"
            return answer["return"]
