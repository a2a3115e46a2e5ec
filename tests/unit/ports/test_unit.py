"""What a unit port tells programs and logs. (Packets, sessions, hostile programs: tests/conformance/unit_port.)"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.qemu_peers import eventually
from tests.support.unit_peers import UnitPeer
from vbackend.backend import Backend
from vbackend.ports.parse import parse_port
from vbackend.ports.unit import UnitPort
from vbackend.snapshot import PortSnapshot


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[Backend]:
    async with Backend(name="test") as found:
        await found.start([parse_port(f"unit:{tmp_path}/u,name=unit,addr=10.7.0.1,header=null")])
        yield found


def only(backend: Backend) -> PortSnapshot:
    (port,) = backend.snapshot().ports
    return port


async def test_it_listens_in_two_places(backend: Backend, tmp_path: Path) -> None:
    port = only(backend)
    assert (port.kind, port.state, port.detail) == ("unit", "listening", f"on {tmp_path}/u")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["u", "u.errors"]
    await backend.remove_port("unit")
    assert not list(tmp_path.iterdir())


async def test_a_program_connects_and_leaves(
    backend: Backend, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with await UnitPeer.connect(f"{tmp_path}/u"):
        await eventually(lambda: only(backend).session, "connected")
        session = only(backend).session
        assert session is not None
        assert session.peer.startswith("unix pid ")
    await eventually(lambda: only(backend).state == "listening", "it listens again")
    assert only(backend).last_end == "the peer closed the connection"
    assert "port unit: session 1 with unix pid " in caplog.text


async def test_a_second_program_hears_who_has_it(backend: Backend, tmp_path: Path) -> None:
    with await UnitPeer.connect(f"{tmp_path}/u"), await UnitPeer.connect(f"{tmp_path}/u") as second:
        (said,) = await second.expect_eof()
    assert said.startswith(b"refused: tun0 is open, EBUSY 16: unix pid ")
    assert said.endswith(b" is connected\n")
    assert only(backend).refused == 1


async def test_a_program_that_waits_when_the_port_closes(backend: Backend, tmp_path: Path) -> None:
    with await UnitPeer.connect(f"{tmp_path}/u"):
        await eventually(lambda: only(backend).session, "connected")
        with await UnitPeer.connect(f"{tmp_path}/u") as second:
            port = backend._ports["unit"]
            assert isinstance(port, UnitPort)
            await eventually(lambda: port._waiting, "the second one waits for the first to leave")
            await backend.remove_port("unit")
            assert await second.expect_eof() == [b"refused: tun0 is open, EBUSY 16: the port is closing\n"]


async def test_a_program_that_left_before_it_was_refused(backend: Backend, tmp_path: Path) -> None:
    with await UnitPeer.connect(f"{tmp_path}/u"):
        await eventually(lambda: only(backend).session, "connected")
        (await UnitPeer.connect(f"{tmp_path}/u")).close()
        await eventually(lambda: only(backend).refused == 1, "refused")


async def test_a_unit_that_cannot_be_opened(
    backend: Backend, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody in this process has its device face."""
    port = backend._ports["unit"]
    assert isinstance(port, UnitPort)
    file = port.interface.driver.open(port.interface.number)
    with await UnitPeer.connect(f"{tmp_path}/u") as program:
        assert await program.expect_eof() == []
    await eventually(lambda: only(backend).refused == 1, "refused")
    assert "the unit cannot be opened" in caplog.text
    file.close()
    with await UnitPeer.connect(f"{tmp_path}/u"):
        await eventually(lambda: only(backend).session, "connected")


async def test_an_errors_listener_may_come_first_and_go(backend: Backend, tmp_path: Path) -> None:
    with (
        await UnitPeer.connect(f"{tmp_path}/u.errors") as errors,
        await UnitPeer.connect(f"{tmp_path}/u") as p,
    ):
        await eventually(lambda: only(backend).session, "connected")
        p.send_now(b"\2\0\0")
        assert await errors.recv() == b"1 5 EIO: shorter than its link header\n"
        errors.sock.shutdown(socket.SHUT_RDWR)
        p.send_now(b"\2\0\0")
        await eventually(lambda: only(backend).rx.drops == {"runt": 2}, "counted all the same")
    assert len(asyncio.all_tasks()) == 1
