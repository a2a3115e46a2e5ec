"""Two hundred guests on one switch, each echoing what it is sent: nothing is lost that is not counted."""

import asyncio
from pathlib import Path

from tests.support.accounting import assert_accounts
from tests.support.frames import BROADCAST, frame, mac
from tests.support.qemu_peers import FakeStreamPeer, eventually
from vbackend.backend import Backend
from vbackend.ports.parse import parse_port

GUESTS = 200
ROUNDS = 20
ASKER = mac(0xA5CE)


async def test_two_hundred_ports_echo(tmp_path: Path) -> None:
    async with Backend(name="many", workers=2) as backend:
        paths = [str(tmp_path / f"{number}.sock") for number in range(GUESTS)]
        await backend.start([parse_port(f"stream:unix:{path},queue=1024") for path in paths])
        asker = await backend.open_channel("asker")
        await backend.set_port("asker", queue_frames=2 * GUESTS)  # their greetings and a round of answers
        guests = [await FakeStreamPeer.connect(path) for path in paths]
        echoing: list[asyncio.Task[None]] = []
        try:
            ports = backend.snapshot().ports
            assert len(ports) == GUESTS + 1
            await eventually(
                lambda: all(port.session for port in backend.snapshot().ports), "all are connected"
            )
            for number, guest in enumerate(guests):
                await guest.send_frames(frame(BROADCAST, mac(number), b"here I am"))
            await eventually(lambda: len(backend.snapshot().segments[0].fdb) == GUESTS, "all are learned")
            echoing += [asyncio.create_task(_echo(guest, mac(number))) for number, guest in enumerate(guests)]
            asker.recv_ready()
            heard: dict[bytes, int] = dict.fromkeys((mac(number) for number in range(GUESTS)), 0)
            for turn in range(ROUNDS):
                for number in range(GUESTS):
                    assert await asker.send(frame(mac(number), ASKER, turn.to_bytes(4, "big"), size=60))
                answers = 0
                while answers < GUESTS:
                    got = await asyncio.wait_for(asker.recv(), 30)
                    assert got is not None
                    if got[:6] == ASKER:
                        assert got[14:18] == turn.to_bytes(4, "big")
                        heard[got[6:12]] += 1
                        answers += 1
            assert set(heard.values()) == {ROUNDS}
            await eventually(lambda: received(backend) == {ROUNDS + 1}, "all echoes are counted")
            snapshot = backend.snapshot()
            assert_accounts(snapshot)
            assert all(port.rx.drops == {} for port in snapshot.ports if port.kind == "stream")
        finally:
            for task in echoing:
                task.cancel()
            await asyncio.gather(*echoing, return_exceptions=True)
            for guest in guests:
                guest.close()
            asker.close()


async def _echo(guest: FakeStreamPeer, own: bytes) -> None:
    """Send back what is addressed to this guest."""
    while True:
        got = await guest.recv_frame()
        if got[:6] == own:
            await guest.send_frames(got[6:12] + own + got[12:])


def received(backend: Backend) -> set[int]:
    """The numbers of frames that guests sent, as their ports counted them."""
    return {port.rx.frames_in for port in backend.snapshot().ports if port.kind == "stream"}
