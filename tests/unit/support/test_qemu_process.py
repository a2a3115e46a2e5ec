import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.qemu_process import QemuProcess, QemuSpec
from vbackend.errors import HostError, VbackendError

IDLE = ("-machine", "none", "-accel", "tcg")


@pytest.mark.guest
async def test_starts_and_stops_in_order(tmp_path: Path) -> None:
    process = await QemuProcess.start(QemuSpec(IDLE, tmp_path))
    assert process.returncode is None
    assert (tmp_path / "command").read_text().startswith("qemu-system-x86_64 -nodefaults")
    await process.stop()
    assert process.returncode == 0
    await process.stop()


@pytest.mark.guest
async def test_kill(tmp_path: Path) -> None:
    async with await QemuProcess.start(QemuSpec(IDLE, tmp_path)) as process:
        await process.kill()
        assert process.returncode == -signal.SIGKILL
        assert await process.wait() == -signal.SIGKILL


@pytest.mark.guest
async def test_stop_of_one_that_hangs(tmp_path: Path) -> None:
    async with await QemuProcess.start(QemuSpec(IDLE, tmp_path)) as process:
        os.kill(process.pid, signal.SIGSTOP)
        await process.stop(grace=0.05)
        assert process.returncode == -signal.SIGKILL


@pytest.mark.guest
async def test_passed_descriptors(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            arguments = [*IDLE, "-chardev", f"socket,id=c0,fd={theirs.fileno()}"]
            process = await QemuProcess.start(QemuSpec(arguments, tmp_path, pass_fds=[theirs.fileno()]))
        async with process:
            assert "c0" in str(await process.qmp.execute("query-chardev"))
        assert ours.recv(1) == b"", "QEMU's end is closed with it"


@pytest.mark.guest
async def test_refused_arguments_show_qemus_words(tmp_path: Path) -> None:
    with pytest.raises(VbackendError, match=r"QEMU ended with status 1: .*no-such-device"):
        await QemuProcess.start(QemuSpec([*IDLE, "-device", "no-such-device"], tmp_path))
    assert "no-such-device" in (tmp_path / "qemu.log").read_text()


async def test_programs_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(
        HostError, match="there is no qemu-nowhere; on Debian it is in package qemu-system-x86"
    ):
        await QemuProcess.start(QemuSpec(IDLE, tmp_path, binary="qemu-nowhere"))


async def test_silent_program_is_killed(tmp_path: Path) -> None:
    """It holds the monitor and says nothing."""
    silent = tmp_path / "silent"
    silent.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/pid\nexec sleep 1000\n")
    silent.chmod(0o755)
    with pytest.raises(VbackendError, match="monitor does not answer"):
        await QemuProcess.start(QemuSpec([], tmp_path, binary=str(silent)), timeout=0.5)
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.guest
def test_qemu_dies_with_us(tmp_path: Path) -> None:
    """A parent that is killed leaves no QEMU: its end of the passed socket closes."""
    ours, theirs = socket.socketpair()
    script = f"""
import asyncio
from pathlib import Path
from tests.support.qemu_process import QemuProcess, QemuSpec
async def main():
    fd = {theirs.fileno()}
    arguments = {[*IDLE]!r} + ["-chardev", f"socket,id=c0,fd={{fd}}"]
    await QemuProcess.start(QemuSpec(arguments, Path({str(tmp_path)!r}), pass_fds=[fd]))
    print("started", flush=True)
    await asyncio.sleep(1000)
asyncio.run(main())
"""
    with ours:
        with theirs:
            parent = subprocess.Popen(
                [sys.executable, "-c", script], stdout=subprocess.PIPE, pass_fds=[theirs.fileno()]
            )
        with parent:
            try:
                assert parent.stdout is not None
                assert parent.stdout.readline() == b"started\n"
            finally:
                parent.kill()
        ours.settimeout(10)
        assert ours.recv(1) == b""
