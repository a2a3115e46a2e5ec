"""What a program hears of writes that the driver would refuse: W1 to W5, V5, V6, at PATH.errors."""

import asyncio
import errno
import socket
from pathlib import Path

import pytest

from tests.conformance.unit_port.lab import HERE, THERE, unit_lab
from tests.support.qemu_peers import eventually
from tests.support.unit_peers import packet
from vbackend.tun.headers import encode
from vbackend.tun.vocabulary import Header

GOOD = packet(HERE, THERE, b"good")
SHORT = "EIO: shorter than its link header"
FAMILY = "EAFNOSUPPORT: neither IPv4 nor IPv6"
TOO_LONG = "EIO: longer than the unit's largest MTU"
NO_PACKET = "EIO: no packet behind the link header"

# (header, message, errno, text, drop reason of the port, whether it counts in ierrors)
REFUSED: list[tuple[Header, bytes, int, str, str, bool]] = [
    ("none", b"", errno.EIO, NO_PACKET, "runt", True),
    ("none", b"\x50" * 20, errno.EAFNOSUPPORT, FAMILY, "not-ip", False),
    ("none", GOOD.ljust(1501, b"\0"), errno.EIO, TOO_LONG, "oversize", False),
    ("null", b"", errno.EIO, SHORT, "runt", False),
    ("null", b"\2\0\0", errno.EIO, SHORT, "runt", False),
    ("null", encode("null", b"", family=4), errno.EIO, NO_PACKET, "runt", True),
    ("null", b"\7\0\0\0" + GOOD, errno.EAFNOSUPPORT, FAMILY, "not-ip", False),
    ("loop", b"\0\0\0\7" + GOOD, errno.EAFNOSUPPORT, FAMILY, "not-ip", False),
    ("loop", encode("loop", GOOD.ljust(1501, b"\0"), family=4), errno.EIO, TOO_LONG, "oversize", False),
    ("sockaddr", bytes(15), errno.EIO, SHORT, "runt", False),
    ("sockaddr", b"\x10\x07" + bytes(14) + GOOD, errno.EAFNOSUPPORT, FAMILY, "not-ip", False),
    ("pi", bytes(3), errno.EIO, SHORT, "runt", False),
    ("pi", b"\0\0\x08\x06" + GOOD, errno.EAFNOSUPPORT, FAMILY, "not-ip", False),
    ("ether", bytes(13), errno.EIO, SHORT, "runt", False),
    ("ether", bytes(12) + b"\x88\xb5" + GOOD, errno.EAFNOSUPPORT, FAMILY, "not-ip", False),
]


@pytest.mark.parametrize(("header", "message", "code", "text", "reason", "counts"), REFUSED)
async def test_a_refused_write(
    tmp_path: Path, header: Header, message: bytes, code: int, text: str, reason: str, counts: bool
) -> None:
    async with unit_lab(tmp_path, f"header={header}") as lab:
        guest, program, errors = await lab.station(), await lab.program(), await lab.errors()
        for written in (encode(header, GOOD, family=4), message, encode(header, GOOD, family=4), message):
            program.send_now(written)
        assert [await guest.recv() for _ in range(2)] == [GOOD, GOOD]
        assert await errors.recv_all(2) == [f"{number} {code} {text}\n".encode() for number in (2, 4)]
        assert lab.port.rx.drops == {reason: 2}
        counters = lab.unit.counters
        assert (counters["ipackets"], counters["ierrors"]) == (2, 2 * counts)


async def test_a_message_beyond_any_packet(tmp_path: Path) -> None:
    """200 KB, as far as the socket takes it: cut by the engine, refused, and counted."""
    async with unit_lab(tmp_path, "mtu=65535") as lab:
        guest, program, errors = await lab.station(), await lab.program(), await lab.errors()
        program.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        await program.send(GOOD.ljust(200_000, b"\0"), GOOD)
        assert await guest.recv() == GOOD
        assert await errors.recv() == f"1 {errno.EIO} {TOO_LONG}\n".encode()
        assert lab.port.rx.drops == {"oversize": 1}


async def test_messages_are_counted_from_each_programs_first(tmp_path: Path) -> None:
    async with unit_lab(tmp_path) as lab:
        errors = await lab.errors()
        for _ in range(2):
            program = await lab.program()
            program.send_now(b"\0")
            assert (await errors.recv()).startswith(b"1 ")
            program.close()
            await eventually(lambda: lab.port.session is None, "closed")


async def test_one_program_listens_to_errors_at_a_time(tmp_path: Path) -> None:
    async with unit_lab(tmp_path) as lab:
        program, first = await lab.program(), await lab.errors()
        (message,) = await (await lab.client(".errors")).expect_eof()
        assert message == b"refused: tun0 is open, EBUSY 16: somebody listens to its errors already\n"
        program.send_now(b"\0")
        assert (await first.recv()).startswith(b"1 ")
        first.close()
        await eventually(lambda: lab._unit_port._errors is None, "it has left")
        program.send_now(b"\0")
        second = await lab.errors()
        await eventually(lambda: lab.port.rx.dropped == 2, "what nobody hears of")
        program.send_now(b"\0")
        assert (await second.recv()).startswith(b"3 ")
        assert lab.port.refused == 0


async def test_a_listener_that_talks_is_let_go(tmp_path: Path) -> None:
    async with unit_lab(tmp_path) as lab:
        errors = await lab.errors()
        errors.send_now(b"hello")
        assert await errors.expect_eof() == []


async def test_a_listener_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    async with unit_lab(tmp_path) as lab:
        guest, program, errors = await lab.station(), await lab.program(), await lab.errors()
        count = 5000
        for number in range(count):
            await program.send(b"\0")
            if number % 100 == 0:
                await asyncio.sleep(0)
        await lab.hears(guest, program)
        assert lab.port.rx.drops == {"not-ip": count}
        lines = errors.recv_ready()
        numbers = [int(line.split()[0]) for line in lines]
        assert numbers == sorted(numbers)
        assert 0 < len(numbers) < count
