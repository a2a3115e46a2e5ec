"""Processes that outlive whoever started them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.run import wait_until
from vbackend.errors import HostError
from vbackend.lab.process import Process, find_qemus

PYTHON = [sys.executable, "-IS", "-c"]


def command(pidfile: Path, code: str = "import time; time.sleep(60)") -> list[str]:
    return [*PYTHON, code, "-pidfile", str(pidfile)]


async def test_spawned_watched_killed(tmp_path: Path) -> None:
    process = Process.spawn(command(tmp_path / "pid"), tmp_path / "log", os.environ)
    assert os.getsid(process.pid) == process.pid  # our terminal's signals are not its
    wait_until(lambda: find_qemus(tmp_path) == {tmp_path / "pid": process.pid}, "it is found")
    assert find_qemus(tmp_path / "other") == {}
    process.kill()
    assert await process.wait() == "it ended by signal 9"
    process.kill()
    assert find_qemus(tmp_path) == {}


async def test_its_words_and_status(tmp_path: Path) -> None:
    code = "import sys; print('words', flush=True); sys.exit('last')"
    process = Process.spawn(command(tmp_path / "pid", code), tmp_path / "log", os.environ)
    assert await process.wait() == "it ended with status 1"
    assert (tmp_path / "log").read_text() == "words\nlast\n"


async def test_no_such_program(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot start /no/qemu: No such file"):
        Process.spawn(["/no/qemu"], tmp_path / "log", {})


async def test_taken_over_from_another_parent(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    child = subprocess.Popen(command(mark), stdin=subprocess.DEVNULL)  # noqa: ASYNC220
    with child:
        wait_until(lambda: find_qemus(tmp_path) == {mark: child.pid}, "it is found")
        (tmp_path / "link").symlink_to(tmp_path)
        assert find_qemus(tmp_path / "link") == {tmp_path / "link/pid": child.pid}
        through = Process.adopt(child.pid, tmp_path / "link/pid")
        assert through is not None
        through.release()
        assert Process.adopt(child.pid, tmp_path / "other") is None
        process = Process.adopt(child.pid, mark)
        assert process is not None
        process.release()
        process.release()
        assert child.poll() is None
        again = Process.adopt(child.pid, mark)
        assert again is not None
        again.kill()
        assert (await again.wait()).startswith("it ended")
    assert Process.adopt(child.pid, mark) is None
