"""What must not end a network: guests that die, restart, stop; a vbackend that is killed under running guests."""

import asyncio
import signal
from pathlib import Path

import pytest

from tests.guests.wiring import DATAGRAM, DIALLED, LISTENING, Transport, boot, mac
from tests.support.guest import Guests
from tests.support.run import vbackend_run

pytestmark = [pytest.mark.guest, pytest.mark.timeout(240)]


@pytest.mark.parametrize("transport", [LISTENING, DIALLED, DATAGRAM], ids=lambda transport: transport.name)
async def test_a_killed_guest_comes_back(transport: Transport, guests: Guests, tmp_path: Path) -> None:
    with vbackend_run(tmp_path, *(transport.port(tmp_path, name) for name in "ab")) as run:
        a, b = await asyncio.gather(
            *(boot(guests, transport, tmp_path, name, number) for number, name in enumerate("ab", 1))
        )
        await a.wait_ping("10.5.0.2")
        before = run.port("b")
        await a.kill()
        a = await boot(guests, transport, tmp_path, "a", 1)
        await a.wait_ping("10.5.0.2")
        await b.wait_ping("10.5.0.1")
        assert run.port("b").session == before.session, "the other guest's session is untouched"
        if transport is not DATAGRAM:
            assert run.port("a").sessions == 2


@pytest.mark.parametrize("transport", [DIALLED, DATAGRAM], ids=lambda transport: transport.name)
async def test_a_killed_vbackend_comes_back_under_running_guests(
    transport: Transport, guests: Guests, tmp_path: Path
) -> None:
    ports = [transport.port(tmp_path, name) for name in "ab"]
    with vbackend_run(tmp_path, *ports) as run:
        a, b = await asyncio.gather(
            *(boot(guests, transport, tmp_path, name, number) for number, name in enumerate("ab", 1))
        )
        await a.wait_ping("10.5.0.2")
        assert run.stop(signal.SIGKILL) == -signal.SIGKILL
    lonely = await a.ping("10.5.0.2", count=1, wait_s=1)
    assert lonely.received == 0, "there is no network without vbackend"
    with vbackend_run(tmp_path, *ports) as run:
        run.wait_connected("a", "b")
        await a.wait_ping("10.5.0.2", timeout=10)
        await b.wait_ping("10.5.0.1", timeout=10)
        result = await a.ping("10.5.0.2", count=20)
        assert result.received == 20, result


async def test_a_restart_in_the_middle_of_a_flood_wedges_nobody(guests: Guests, tmp_path: Path) -> None:
    """A QEMU whose send is blocked when its peer closes never sends again: vbackend reads to the end before it goes."""
    ports = [DIALLED.port(tmp_path, name) for name in "ab"]
    with vbackend_run(tmp_path, *ports) as run:
        a, b = await asyncio.gather(
            *(boot(guests, DIALLED, tmp_path, name, number) for number, name in enumerate("ab", 1))
        )
        await a.wait_ping("10.5.0.2")
        await a.agent.start("while true; do /bin/ping -n -q -f -w 60 -s 1400 10.5.0.2; done")
        for _ in range(3):
            before = run.port("a").rx.frames_in
            run.wait_for(lambda before=before: run.port("a").rx.frames_in > before + 200, "the flood")  # type: ignore[misc]
        assert run.stop() == 0
    for _ in range(2):
        with vbackend_run(tmp_path, *ports) as run:
            run.wait_connected("a", "b")
            run.wait_for(lambda run=run: run.port("a").rx.frames_in > 200, "the flood goes on")  # type: ignore[misc]
            await b.wait_ping("10.5.0.1")
            assert run.stop() == 0


async def test_resets_pauses_and_downs_end_nothing(guests: Guests, tmp_path: Path) -> None:
    with vbackend_run(tmp_path, *(LISTENING.port(tmp_path, name) for name in "abc")) as run:
        a, b, c = await asyncio.gather(
            *(boot(guests, LISTENING, tmp_path, name, number) for number, name in enumerate("abc", 1))
        )
        await a.wait_ping("10.5.0.2")
        await a.wait_ping("10.5.0.3")

        # A guest that stands still fills its own queue and delays nobody.
        await b.qmp.execute("stop")
        flood = asyncio.create_task(a.run("/bin/ping -n -q -c 1200 -i 0.002 -s 1400 10.5.0.2", timeout=60))
        while not run.port("b").tx.drops.get("queue-full"):
            result = await c.ping("10.5.0.1", count=3)
            assert result.received == 3, result
        assert run.port("b").tx.queued == run.port("b").queue_frames
        await b.qmp.execute("cont")
        await flood
        await a.wait_ping("10.5.0.2")
        assert run.port("b").sessions == 1

        # The reset button.
        await b.reset()
        await b.configure(mac(2), ["10.5.0.2/24"])
        await a.wait_ping("10.5.0.2")

        # A port that is set down, and up.
        run.set("b", "down")
        result = await a.ping("10.5.0.2", count=2, wait_s=1)
        assert result.received == 0
        run.set("b", "up")
        await a.wait_ping("10.5.0.2")
        assert run.port("b").sessions == 1
