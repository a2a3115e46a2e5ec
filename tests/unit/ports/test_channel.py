"""Python's own end of a port."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.accounting import assert_accounts
from tests.support.frames import mac, numbered
from tests.support.qemu_peers import eventually
from vbackend.backend import Backend


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with Backend(name="test", segment="cable") as found:
        await found.start([], to_come=2)
        yield found


async def test_frames_go_both_ways_in_order(backend: Backend) -> None:
    with await backend.open_channel("a") as a, await backend.open_channel("b") as b:
        sent = numbered(mac(2), mac(1), 100)
        assert await a.send_all(sent) == 100
        assert [await b.recv() for _ in sent] == sent
        assert await b.send(sent[0])
        assert await a.recv() == sent[0]
        assert_accounts(backend.snapshot())


async def test_recv_waits_for_a_frame(backend: Backend) -> None:
    with await backend.open_channel("a") as a, await backend.open_channel("b") as b:
        waiting = asyncio.create_task(b.recv())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        await a.send(numbered(mac(2), mac(1), 1)[0])
        assert await asyncio.wait_for(waiting, 10) is not None


async def test_a_removed_port_ends_recv(backend: Backend) -> None:
    with await backend.open_channel("a") as a:
        waiting = asyncio.create_task(a.recv())
        await asyncio.sleep(0)
        await backend.remove_port("a")
        assert await asyncio.wait_for(waiting, 10) is None


async def test_closing_it_is_the_end_of_its_session(backend: Backend) -> None:
    channel = await backend.open_channel("a")
    channel.close()
    channel.close()
    assert await channel.recv() is None
    await eventually(lambda: backend.snapshot().ports[0].session is None, "the session ends")
    port = backend.snapshot().ports[0]
    assert (port.state, port.detail) == ("down", "its channel was closed")
