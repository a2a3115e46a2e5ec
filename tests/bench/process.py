"""Processes under measurement: start, wait until ready, bind to a CPU, read CPU time, end.

Rule: whatever is started here is ended by its own handle when the `with` block ends, whatever happened inside.
"""

import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "BenchError",
    "Load",
    "Outcome",
    "cpu_ns",
    "pin",
    "prefer",
    "preferred_session",
    "read_line",
    "running",
    "settled_cpu_ns",
    "until",
]

NICENESS = -15  # above what else runs on the machine, below what keeps it alive


class BenchError(Exception):
    """A part of the bench does not work; the text says which and shows its last words."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The load generator's answer to one run."""

    sent: int
    arrived: int
    foreign: int
    wall_ns: int


@contextmanager
def running(
    command: Sequence[str], log: Path, *, pass_fds: Sequence[int] = (), pipes: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """A child whose stderr (and stdout, without `pipes`) goes to `log`; terminated, then killed, at the end."""
    with log.open("wb") as out:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipes else out,
            stderr=out,
            pass_fds=pass_fds,
            start_new_session=True,  # see prefer()
        )
    with child:
        try:
            yield child
        finally:
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(timeout=5)
                except subprocess.TimeoutExpired:
                    child.kill()


def until(
    condition: Callable[[], bool], what: str, child: subprocess.Popen[bytes], log: Path, seconds: float = 20
) -> None:
    """Wait for a condition of a child. BenchError with the end of its log when it dies or takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        if child.poll() is not None:
            raise BenchError(f"{what}: exit status {child.returncode}: {_last_words(log)}")
        if time.monotonic() > deadline:
            raise BenchError(f"{what}: not within {seconds:g} s: {_last_words(log)}")
        time.sleep(0.01)


def _last_words(log: Path) -> str:
    return log.read_text(errors="replace").strip()[-600:] or "(it said nothing)"


def read_line(fd: int, seconds: float) -> str | None:
    """One line of text without its newline; None when it does not come in time or the other end closed."""
    deadline = time.monotonic() + seconds
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([fd], [], [], max(deadline - time.monotonic(), 0))
        byte = os.read(fd, 1) if ready else b""
        if not byte:
            return None
        line += byte
    return line.decode().rstrip("\n")


def pin(pid: int, cpu: int | None) -> None:
    """Bind every thread of a process to one CPU and prefer it there; None leaves them alone."""
    if cpu is not None:
        _each_thread(pid, lambda thread: os.sched_setaffinity(thread, {cpu}))
        prefer(pid)


def prefer(pid: int) -> None:
    """Let every thread of a process run before the machine's other work, if we may.

    Where sessions share the CPUs (sched(7), autogroup) a thread's niceness counts within its session only, so one that
    the process has to itself is preferred as a whole.
    """
    _each_thread(pid, lambda thread: os.setpriority(os.PRIO_PROCESS, thread, NICENESS))
    if os.getsid(pid) == pid:
        with suppress(FileNotFoundError, PermissionError):
            Path(f"/proc/{pid}/autogroup").write_text(str(NICENESS))


@contextmanager
def preferred_session() -> Iterator[None]:
    """The same for our own session, which has the guests in it, while inside."""
    group = Path("/proc/self/autogroup")
    before = _autogroup_niceness(group)
    try:
        if before is not None:
            group.write_text(str(NICENESS))
    except PermissionError:
        before = None
    try:
        yield
    finally:
        if before is not None:
            group.write_text(before)


def _autogroup_niceness(group: Path) -> str | None:
    """What is written there, "/autogroup-5 nice 0"; None without autogroups or in the root's, where nothing is."""
    try:
        words = group.read_text().split()
    except FileNotFoundError:
        return None
    return words[-1] if words else None


def _each_thread(pid: int, change: Callable[[int], None]) -> None:
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            change(int(task.name))
        except (ProcessLookupError, PermissionError):
            continue  # a thread that ended meanwhile; no root, and other processes get in the way more often


def cpu_ns(pid: int) -> int:
    """CPU time of all living threads of a process, ns, user and system.

    The first field of schedstat (Linux, Documentation/scheduler/sched-stats.rst). A thread that runs at this moment is
    a little behind.
    """
    return sum(
        int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()
    )


def settled_cpu_ns(pid: int, seconds: float = 0.5) -> int:
    """CPU time once the process sleeps: two readings 10 ms apart agree, or the time is up."""
    deadline = time.monotonic() + seconds
    before = cpu_ns(pid)
    while True:
        time.sleep(0.01)
        after = cpu_ns(pid)
        if after == before or time.monotonic() > deadline:
            return after
        before = after


class Load:
    """The load generator, connected to both sides of one forwarder."""

    def __init__(self, child: subprocess.Popen[bytes], log: Path) -> None:
        self._child = child
        self._log = log
        if self._line(15) != "ready":
            raise BenchError(f"load generator: {_last_words(log)}")

    @classmethod
    @contextmanager
    def connected(cls, command: Sequence[str], log: Path) -> Iterator["Load"]:
        with running(command, log, pipes=True) as child:
            yield cls(child, log)

    @property
    def pid(self) -> int:
        return self._child.pid

    def run(self, size: int, burst: int, frames: int, window: int, mode: str = "") -> Outcome:
        """Send frames and count them. BenchError when the generator fails or needs more than two minutes."""
        assert self._child.stdin is not None
        self._child.stdin.write(f"{size} {burst} {frames} {window} {mode}\n".encode())
        self._child.stdin.flush()
        answer = self._line(120)
        if answer is None:
            raise BenchError(f"load generator: no result for {frames} frames: {_last_words(self._log)}")
        return Outcome(*map(int, answer.split()))

    def _line(self, seconds: float) -> str | None:
        assert self._child.stdout is not None
        return read_line(self._child.stdout.fileno(), seconds)
