"""The fake program and the fake guest, against each other through a real unit."""

import socket
from pathlib import Path

import pytest

from tests.support.frames import mac
from tests.support.unit_peers import GuestStation, UnitPeer, packet
from vbackend.backend import Backend
from vbackend.ports.parse import parse_port
from vbackend.ports.unitport import stable_mac


@pytest.mark.parametrize(("here", "there"), [("10.7.0.1", "10.7.0.2"), ("fd07::1", "fd07::2")])
def test_a_packet_of_each_version(here: str, there: str) -> None:
    found = packet(here, there, b"payload")
    assert (found[0] >> 4, found[-7:]) == (6 if ":" in here else 4, b"payload")


async def test_messages_keep_their_bounds_and_the_end_is_seen(tmp_path: Path) -> None:
    path = f"{tmp_path}/a"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(1)
        with await UnitPeer.connect(path) as near, UnitPeer(listener.accept()[0]) as far:
            near.send_now(b"one")
            await near.send(b"two", b"three")
            assert await far.recv_all(2) == [b"one", b"two"]
            assert far.recv_ready() == [b"three"]
            near.close()
            assert await far.expect_eof() == []


async def test_both_ends_of_a_unit(tmp_path: Path) -> None:
    path = f"{tmp_path}/u"
    async with Backend(name="test") as backend:
        await backend.start([parse_port(f"unit:{path},addr=10.7.0.1,peer=10.7.0.2")])
        unit = stable_mac(f"unit {path}")
        with await backend.open_channel("guest") as channel, await UnitPeer.connect(path) as program:
            guest = GuestStation(channel, mac(2), "10.7.0.2", unit)
            assert await guest.resolve("10.7.0.1") == unit.hex(":")
            await program.send(packet("10.7.0.1", "10.7.0.2", b"down"))
            assert (await guest.recv())[-4:] == b"down"
            await guest.send(packet("10.7.0.2", "10.7.0.1", b"up"))
            assert (await program.recv())[-2:] == b"up"
