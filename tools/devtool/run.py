"""Running commands for `tools/dev`: each line is printed before it runs, the first that fails ends the whole.

Children share the terminal's process group, so Ctrl-C reaches them; SIGTERM is passed on. Either way the
child is waited for, so that a test run or the demo can clean up behind itself.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from types import FrameType
from typing import IO

__all__ = ["ROOT", "VENV", "DevError", "beside", "environment", "host_triple", "output", "run", "venv_bin"]

ROOT = Path(__file__).resolve().parent.parent.parent
VENV = ROOT / ".venv"


class DevError(Exception):
    """A command or a precondition failed; `status` is the exit status of `tools/dev`."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def venv_bin(name: str) -> str:
    """The path of a program of the virtual environment, relative to the root, where all commands run."""
    return str(Path(VENV.name) / "bin" / name)


def environment() -> dict[str, str]:
    """The process environment as seen from inside the virtual environment; the root is importable."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "__PYVENV_LAUNCHER__")}
    env["VIRTUAL_ENV"] = str(VENV)
    env["PATH"] = f"{VENV / 'bin'}:{env.get('PATH', os.defpath)}"
    env["PYTHONPATH"] = str(ROOT)
    env["PYO3_PYTHON"] = str(VENV / "bin" / "python")
    env["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    return env


def run(command: Sequence[str], *, env: Mapping[str, str] | None = None, interactive: bool = False) -> None:
    """Print and run one command in the repository's root; `DevError` when it does not exit with 0.

    `env` is added to `environment()` and printed with the command. Without `interactive` it gets no stdin.
    """
    print("$", _words(command, env), flush=True)
    child = _start(command, env, stdin=None if interactive else subprocess.DEVNULL)
    _judge(_wait(child), command)


@contextmanager
def beside(command: Sequence[str], *, env: Mapping[str, str] | None = None) -> Iterator[None]:
    """Run one command while the body runs, and wait for it. What it writes comes at the end, in one piece.

    `DevError` as `run` has it; also when the body fails, the command runs to its end, and is heard.
    """
    words = _words(command, env)
    print("$", words, "&", flush=True)
    with TemporaryFile() as sink:
        child = _start(command, env, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            status = _wait(child)
            sink.seek(0)
            print("$", words, flush=True)
            shutil.copyfileobj(sink, sys.stdout.buffer)
            sys.stdout.flush()
    _judge(status, command)


def output(command: Sequence[str]) -> str | None:
    """stdout of a quick query, not printed; None when the program is missing or fails."""
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def host_triple(rustc_version: str | None) -> str:
    """The host's target triple in the output of `rustc -vV`."""
    for line in (rustc_version or "").splitlines():
        name, _, value = line.partition(": ")
        if name == "host":
            return value
    raise DevError(f"`rustc -vV` names no host; it says {rustc_version!r}")


def _words(command: Sequence[str], env: Mapping[str, str] | None) -> str:
    return " ".join([*(f"{k}={shlex.quote(v)}" for k, v in (env or {}).items()), shlex.join(command)])


def _start(
    command: Sequence[str],
    env: Mapping[str, str] | None,
    *,
    stdin: int | None,
    stdout: IO[bytes] | None = None,
    stderr: int | None = None,
) -> subprocess.Popen[bytes]:
    whole = environment() | dict(env or {})
    try:
        return subprocess.Popen(command, cwd=ROOT, env=whole, stdin=stdin, stdout=stdout, stderr=stderr)
    except FileNotFoundError as error:
        raise DevError(f"cannot run {command[0]}: {error.strerror} (try `tools/dev setup`)", 127) from error


def _judge(status: int, command: Sequence[str]) -> None:
    if status:
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        raise DevError(f"{how}: {shlex.join(command)}", 128 - status if status < 0 else status)


def _wait(child: subprocess.Popen[bytes]) -> int:
    def forward(signum: int, _frame: FrameType | None) -> None:
        child.send_signal(signum)

    before = signal.signal(signal.SIGTERM, forward)
    try:
        while True:
            try:
                return child.wait()
            except KeyboardInterrupt:
                continue  # the child got the signal too
    finally:
        signal.signal(signal.SIGTERM, before)
