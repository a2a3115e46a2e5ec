import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.qemu_process import QemuProcess, QemuSpec
from vbackend.qemu.qmp import Qmp, QmpCommandError, QmpError


@pytest_asyncio.fixture
async def qemu(tmp_path: Path) -> AsyncIterator[QemuProcess]:
    """A QEMU without guest code: a machine that stands still before its first instruction, with one card."""
    card = ["-netdev", "hubport,id=n0,hubid=0", "-device", "virtio-net-pci,id=nic0,netdev=n0,romfile="]
    spec = QemuSpec(["-machine", "pc", "-accel", "tcg", "-m", "16", "-S", *card], tmp_path)
    async with await QemuProcess.start(spec) as process:
        yield process


@pytest.mark.guest
async def test_commands_and_events(qemu: QemuProcess) -> None:
    status = await qemu.qmp.execute("query-status")
    assert isinstance(status, dict)
    assert (status["running"], status["status"]) == (False, "prelaunch")
    with qemu.qmp.events("RESUME", "STOP", "RESET") as events:
        await qemu.qmp.cont()
        await qemu.qmp.stop()
        await qemu.qmp.system_reset()
        await qemu.qmp.cont()
        seen = [(await asyncio.wait_for(events.get(), 10))["event"] for _ in range(4)]
    assert seen == ["RESUME", "STOP", "RESET", "RESUME"]
    await qemu.qmp.set_link("nic0", up=False)
    await qemu.qmp.set_link("n0", up=True)
    waiting = asyncio.create_task(qemu.qmp.wait_event("STOP"))
    await asyncio.sleep(0)  # let it begin to listen
    await qemu.qmp.stop()
    assert (await waiting)["event"] == "STOP"
    with pytest.raises(TimeoutError):
        await qemu.qmp.wait_event("SHUTDOWN", timeout=0.01)


@pytest.mark.guest
async def test_refused_command(qemu: QemuProcess) -> None:
    with pytest.raises(QmpCommandError, match=r"QEMU refused set_link: .*nothing") as caught:
        await qemu.qmp.set_link("nothing", up=True)
    assert caught.value.kind == "DeviceNotFound"


@pytest.mark.guest
async def test_monitor_that_is_gone(qemu: QemuProcess) -> None:
    await qemu.kill()
    with pytest.raises(QmpError, match="query-status was not answered"):
        await qemu.qmp.execute("query-status")
    await qemu.qmp.quit()
    await qemu.qmp.close()


async def test_peer_that_hangs_up() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with pytest.raises(QmpError, match="does not answer"):
        await Qmp.connect(ours)
    assert ours.fileno() < 0


async def test_peer_that_is_silent() -> None:
    ours, theirs = socket.socketpair()
    with theirs, pytest.raises(QmpError, match="does not answer"):
        await Qmp.connect(ours, timeout=0.05)
    assert ours.fileno() < 0


async def test_peer_that_falls_silent() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(
            b'{"QMP": {"version": {}, "capabilities": []}}\r\n{"return": {}, "id": "__qmp#00000"}\r\n'
        )
        async with await Qmp.connect(ours) as qmp:
            with pytest.raises(
                QmpError, match=r"QEMU's monitor hangs, query-status was not answered in 0.05 s"
            ):
                await qmp.execute("query-status", timeout=0.05)


async def test_peer_that_speaks_something_else() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(QmpError, match="does not answer"):
            await Qmp.connect(ours)
