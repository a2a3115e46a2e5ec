"""A unit's port in a capture: bare packets behind their family, both ways, with the reason of a loss (T2, W6, V4)."""

import asyncio
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.conformance.unit_port.lab import HERE, HERE6, THERE, THERE6, Lab, unit_lab
from tests.support.pcapng import Capture, parse
from tests.support.qemu_peers import DEADLINE_S, eventually
from tests.support.unit_peers import packet
from vbackend.tun.headers import Family, encode, family_number
from vbackend.tun.vocabulary import SYSTEMS, System


class Listener:
    """The one client of a capture."""

    def __init__(self, sock: socket.socket, head: bytes) -> None:
        self._sock = sock
        self._head = head  # comes when everything from now on is captured

    @classmethod
    @asynccontextmanager
    async def started(cls, lab: Lab, folder: Path, *, count: int) -> AsyncIterator["Listener"]:
        path = await lab.backend.capture(["unit"], beside=f"{folder}/x", count=count)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.setblocking(False)
            sock.connect(path)
            yield cls(sock, await asyncio.get_running_loop().sock_recv(sock, 1 << 16))

    async def end(self) -> tuple[Capture, bytes]:
        """What there is after `count` packets."""
        data, loop = self._head, asyncio.get_running_loop()
        while more := await asyncio.wait_for(loop.sock_recv(self._sock, 1 << 16), DEADLINE_S):
            data += more
        return parse(data), data


@pytest.mark.parametrize("system", SYSTEMS)
async def test_both_directions_with_their_family(tmp_path: Path, system: System) -> None:
    """The capture never has the sockaddr that the program gets."""
    async with unit_lab(tmp_path, f"header=sockaddr,family={system}") as lab:
        guest, program = await lab.station(), await lab.program()
        async with Listener.started(lab, tmp_path, count=4) as listener:
            packets = [
                packet(*ends, b"x")
                for ends in ((THERE, HERE), (HERE, THERE), (THERE6, HERE6), (HERE6, THERE6))
            ]
            for up, down in (packets[:2], packets[2:]):
                await guest.send(up)
                await program.recv()
                await program.send(encode("sockaddr", down, family=down[0] >> 4, system=system))
                await eventually(lambda: lab.port.rx.frames_in > 0, "it was written")
            found, data = await listener.end()
            written: System = "netbsd" if system == "linux" else system
            assert [(one.direction, one.comment) for one in found.packets] == [
                ("out", None),
                ("in", None),
            ] * 2
            for one, sent in zip(found.packets, packets, strict=True):
                number = family_number(Family(sent[0] >> 4), written)
                assert one.data == number.to_bytes(4, "little") + sent
            (interface,) = found.interfaces
            assert (interface.name, interface.link_type) == ("unit", 0)
    if shutil.which("tshark"):
        assert protocols(data, tmp_path / "capture.pcapng") == ["null:ip"] * 2 + ["null:ipv6"] * 2


def protocols(data: bytes, file: Path) -> list[str]:
    """The first two of each packet, as tshark sees it."""
    file.write_bytes(data)
    command = ["tshark", "-n", "-r", str(file), "-T", "fields", "-e", "frame.protocols"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return [":".join(line.split(":")[:2]) for line in said.split()]


async def test_what_is_lost_says_why(tmp_path: Path) -> None:
    """Only what the queue or the adapter loses; what is not READY or no IP never came so far."""
    async with unit_lab(tmp_path, "rate=8,burst=1500,queue=1") as lab:
        guest = await lab.station()
        await guest.send(packet(THERE, HERE))
        await eventually(lambda: lab.port.tx.drops == {"not-ready": 1}, "nobody has it open")
        program = await lab.program()
        async with Listener.started(lab, tmp_path, count=6) as listener:
            await guest.send(*[up := packet(THERE, HERE, bytes(972))] * 4)
            await eventually(lambda: lab.unit.counters["drops"] == 1, "the queue is full")
            bad = bytes([0x45]) + bytes(19)
            await program.send(bad)
            await eventually(lambda: lab.port.rx.drops == {"bad-ip": 1}, "no IP packet")
            program.sock.send(b"\x50" * 20)  # refused before it is a packet
            await program.send(down := packet(HERE, THERE))
            found, _ = await listener.end()
            assert [(one.direction, one.data[4:], one.comment) for one in found.packets] == [
                *[("out", up, None)] * 3,
                ("out", up, "dropped: queue-full"),
                ("in", bad, "dropped: bad-ip"),
                ("in", down, None),
            ]


async def test_a_destroyed_unit_ends_its_part(tmp_path: Path) -> None:
    async with unit_lab(tmp_path) as lab:
        guest, program = await lab.station(), await lab.program()
        async with Listener.started(lab, tmp_path, count=100) as listener:
            await lab.hears(guest, program)
            await lab.backend.remove_port("unit")
            await lab.backend.stop()
            found, _ = await listener.end()
            assert [one.direction for one in found.packets] == ["in", "out"]
            await lab.backend.start([])
