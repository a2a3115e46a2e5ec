"""The README's first command: it works, and leaves nothing behind, however it ends."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.meta.tree import ROOT
from tests.support.run import wait_until

pytestmark = [pytest.mark.root, pytest.mark.guest, pytest.mark.timeout(300)]


@contextmanager
def demo(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-u", "-m", "tools.demo", *arguments]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def left_behind(pid: int) -> list[str]:
    """Namespaces, processes and sockets of a demo that was process `pid`."""
    spaces = [str(path) for path in Path("/run/netns").glob(f"vbackend-demo-{pid}")]
    folders = [str(path) for path in Path(tempfile.gettempdir()).glob(f"vb-{pid}")]
    processes = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_text(errors="replace").replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if f"vbackend-demo-{pid}" in line or f"/vb-{pid}/" in line:
            processes.append(line)
    return spaces + folders + processes


def test_demo_runs_and_leaves_only_its_capture_and_logs() -> None:
    with demo() as child:
        out, _ = child.communicate()
        assert child.returncode == 0, out
        for expected in ("LEARNED ADDRESSES", "Round trips", "TCP throughput", "Frames through vbackend"):
            assert expected in out
        assert left_behind(child.pid) == []
    assert (ROOT / "artifacts/demo/demo0.pcap").stat().st_size > 10_000
    assert (ROOT / "artifacts/demo/vbackend.log").read_text()


def test_kept_demo_ends_in_order_when_told() -> None:
    with demo("--keep") as child:
        assert child.stdout is not None
        seen = []
        for line in child.stdout:
            seen.append(line)
            if line.startswith("To stop it: kill "):
                break
        else:
            pytest.fail(f"it did not stay: {''.join(seen)}")
        assert left_behind(child.pid) != [], "nothing to play with"
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 130
        assert left_behind(child.pid) == []


def test_ctrl_c_while_vbackend_starts() -> None:
    """A terminal's Ctrl-C goes to the whole process group: what the demo started must not see it."""
    with demo() as child:
        assert child.stdout is not None
        wait_until(
            lambda: any("--ready-fd" in line for line in left_behind(child.pid)), "vbackend is started"
        )
        os.killpg(child.pid, signal.SIGINT)
        rest = child.stdout.read()
        assert child.wait(30) == 130, rest
        assert "interrupted; everything is taken away" in rest
        assert left_behind(child.pid) == []
