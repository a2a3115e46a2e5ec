"""The helper that drives labs leaves nothing behind, and says so when it does."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.lab_run import dumb_disk, lab_runtime
from tests.support.run import wait_until
from vbackend.lab.process import find_qemus


def test_commands() -> None:
    with lab_runtime() as labs:
        assert labs.vbackend("ps").out == ""
        with pytest.raises(AssertionError, match=r"status 2: .*neither a lab file"):
            labs.vbackend("up", "nothing")
        assert labs.daemon("two") is None
        assert labs.pids("two") == {}
        runtime = labs.runtime
    assert not runtime.exists()


def test_what_is_left_is_taken_away() -> None:
    with lab_runtime() as labs:
        folder = labs.folder("two")
        folder.make()
        pidfile = folder.root / "vm" / "a" / "pid"
        child = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(60)", "-pidfile", str(pidfile)]
        )
        wait_until(lambda: find_qemus(labs.runtime), "the process is seen")
        assert labs.pids("two") == {"a": child.pid}
        assert any("QEMU" in line for line in labs.left())
        assert str(folder.root) in labs.left()
    assert child.wait() == -9


def test_a_disk_that_halts(tmp_path: Path) -> None:
    content = dumb_disk(tmp_path / "d").read_bytes()
    assert (content[:2], content[510:512], len(content)) == (b"\xfa\xf4", b"\x55\xaa", 65_536)
