"""Who has the unit open, and what is left when nobody has: exclusive, X1, X2, Q2, T1, D1."""

import errno
import os
import socket
from pathlib import Path

import pytest

from tests.conformance.unit_port.lab import HERE, THERE, unit_lab
from tests.support.frames import BROADCAST, frame
from tests.support.qemu_peers import eventually
from tests.support.unit_peers import UnitPeer, packet
from vbackend.backend import Backend
from vbackend.errors import ConfigError
from vbackend.ports.parse import parse_port


async def test_a_second_program_is_told_who_has_it(tmp_path: Path) -> None:
    async with unit_lab(tmp_path) as lab:
        guest, first = await lab.station(), await lab.program()
        assert lab.port.session is not None
        reason = f"{lab.port.session.peer} is connected"
        for refused in (1, 2):
            second = await lab.client()
            (message,) = await second.expect_eof()
            assert message.decode() == f"refused: tun0 is open, EBUSY {errno.EBUSY}: {reason}\n"
            await eventually(lambda count=refused: lab.port.refused == count, "it is counted")  # type: ignore[misc]
        assert [event.data["reason"] for event in lab.happened("PORT_REFUSED")] == [reason] * 2
        await lab.hears(guest, first)
        assert lab.port.sessions == 1


@pytest.mark.parametrize("how", ["remove", "stop"])
async def test_the_end_when_the_unit_goes(tmp_path: Path, how: str) -> None:
    async with unit_lab(tmp_path) as lab:
        program, errors = await lab.program(), await lab.errors()
        flags = lab.unit.flags
        assert {"OPEN", "INITED", "IASET", "DSTADDR"} == set(flags)
        driver = lab.interface.driver
        await (lab.backend.remove_port("unit") if how == "remove" else lab.backend.stop())
        assert await program.expect_eof() == await errors.expect_eof() == []
        assert not list(tmp_path.iterdir())
        assert (driver.units(), driver.zombies()) == ((), ())
        if how == "stop":
            await lab.backend.start([])
        ended = lab.happened("PORT_DISCONNECTED")
        assert len(ended) == 1


async def test_what_a_program_wrote_last_is_delivered(tmp_path: Path) -> None:
    async with unit_lab(tmp_path) as lab:
        guest, program = await lab.station(), await lab.program()
        last = [packet(HERE, THERE, b"%d" % number) for number in range(50)]
        await program.send(*last)
        program.close()
        assert [await guest.recv() for _ in last] == last
        await eventually(lambda: lab.port.session is None, "the session is over")
        assert lab.port.last_end == "the peer closed the connection"


async def test_the_next_program_finds_the_unit_ready(tmp_path: Path) -> None:
    """X2, X3: addresses and modes stay."""
    async with unit_lab(tmp_path, "header=null") as lab:
        guest = await lab.station()
        for number in range(1, 5):
            program = await lab.program()
            assert set(lab.unit.flags) == {"OPEN", "INITED", "IASET", "DSTADDR"}
            await guest.send(packet(THERE, HERE, b"up"))
            assert (await program.recv())[4:] == packet(THERE, HERE, b"up")
            program.close()
            await eventually(lambda: lab.port.state == "listening", "the port takes the next")
            assert set(lab.unit.flags) == {"INITED", "IASET", "DSTADDR"}
            assert "UP" not in lab.unit.if_flags
            assert lab.port.sessions == number


async def test_a_new_program_is_taken_while_the_old_one_leaves(tmp_path: Path) -> None:
    async with unit_lab(tmp_path) as lab:
        guest, old = await lab.station(), await lab.program()
        for _ in range(20):
            old.close()
            old = await lab.program()
        await lab.hears(guest, old)
        assert (lab.port.sessions, lab.port.refused) == (21, 0)


async def test_close_purges_and_counts(tmp_path: Path) -> None:
    """X1, Q2: what was queued for a program that did not read is lost, and counted by unit and port."""
    async with unit_lab(tmp_path, "queue=64") as lab:
        guest, program = await lab.station(), await lab.program()
        while lab.unit.queue_len < 64:
            await guest.send(*[packet(THERE, HERE, bytes(1000))] * 50)
        queued = lab.unit.queue_len
        program.close()
        await eventually(lambda: lab.port.session is None, "the session is over")
        assert lab.unit.queue_len == lab.port.tx.queued == 0
        assert lab.unit.counters["purged"] == lab.port.tx.drops["peer-gone"] == queued


async def test_nobody_has_it_open(tmp_path: Path) -> None:
    """T1: EHOSTDOWN for packets, which counts in oerrors; the guest's questions are answered all the same."""
    async with unit_lab(tmp_path) as lab:
        guest = await lab.station()
        await guest.send(*[packet(THERE, HERE)] * 3)
        assert await guest.resolve(HERE) == lab.mac.hex(":")
        await guest.channel.send(frame(BROADCAST, guest.mac, b"no IP"))
        await eventually(lambda: lab.port.tx.drops.get("not-ip") == 1, "all were offered")
        assert lab.port.tx.drops == {"not-ready": 3, "not-ip": 1}
        assert lab.unit.counters["oerrors"] == 4
        await lab.hears(guest, await lab.program())


async def test_with_its_link_local_address_alone_it_can_be_ready(tmp_path: Path) -> None:
    async with Backend(name="test") as backend:
        await backend.start([parse_port(f"unit:{tmp_path}/u,name=unit")])
        (port,) = backend.snapshot().ports
        assert port.unit is not None
        assert "IASET" in port.unit.flags
        assert [address[:6] for address in port.unit.addresses] == ["fe80::"]


async def test_an_abstract_name(tmp_path: Path) -> None:
    name = f"@vb-unit-{os.getpid()}"
    async with Backend(name="test") as backend:
        await backend.start([parse_port(f"unit:{name},name=unit")])
        with await UnitPeer.connect(name), await UnitPeer.connect(f"{name}.errors"):
            await eventually(lambda: backend.snapshot().ports[0].session, "connected")
    assert not list(tmp_path.iterdir())


async def test_the_place_is_taken(tmp_path: Path) -> None:
    """Also the one of the errors; then nothing is left of the port."""
    async with Backend(name="test") as backend:
        await backend.start([])
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as holder:
            holder.bind(f"{tmp_path}/u.errors")
            holder.listen(1)
            with pytest.raises(ConfigError, match=f"in use by process {os.getpid()}"):
                await backend.add_port(parse_port(f"unit:{tmp_path}/u"))
        assert (backend.snapshot().ports, [path.name for path in tmp_path.iterdir()]) == ((), ["u.errors"])
        await backend.add_port(parse_port(f"unit:{tmp_path}/u"))  # a file that nobody listens on is replaced
