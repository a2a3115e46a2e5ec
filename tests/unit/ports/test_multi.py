"""`multi` ports: each guest a port of its own, numbers used again."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.accounting import assert_accounts
from tests.support.frames import frame, mac, numbered
from tests.support.qemu_peers import FakeStreamPeer, eventually
from vbackend.backend import Backend
from vbackend.ports import multi
from vbackend.ports.parse import parse_port


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[Backend]:
    async with Backend(name="test") as found:
        await found.start([parse_port(f"stream:unix:{tmp_path}/vms.sock,multi,queue=32")])
        yield found


def names(backend: Backend) -> list[str]:
    return [port.name for port in backend.snapshot().ports]


async def test_guests_get_numbers_and_give_them_back(backend: Backend, tmp_path: Path) -> None:
    path = f"{tmp_path}/vms.sock"
    guests = []
    for number in range(1, 4):
        guests.append(await FakeStreamPeer.connect(path))
        await eventually(lambda: len(names(backend)) == 1 + len(guests), f"a port for number {number}")
    sent = numbered(mac(3), mac(1), 10)
    await guests[2].send_frames(frame(mac(1), mac(3)))
    for guest in guests[:2]:
        await guest.recv_frame()
    await guests[0].send_frames(*sent)
    assert await guests[2].recv_frames(10) == sent
    assert_accounts(backend.snapshot())
    guests[1].close()
    await eventually(lambda: names(backend) == ["vms", "vms.1", "vms.3"], "the port is gone")
    guests[1] = await FakeStreamPeer.connect(path)
    await eventually(lambda: names(backend) == ["vms", "vms.1", "vms.3", "vms.2"], "the number is used again")
    parent, child, *_ = backend.snapshot().ports
    assert (parent.state, parent.sessions) == ("listening", 4)
    assert parent.last_end == "vms.2: the peer closed the connection"
    assert (child.parent, child.queue_frames, child.where) == ("vms", 32, parent.where)
    assert backend.snapshot().segments[0].ports == ("vms.1", "vms.3", "vms.2")
    for guest in guests:
        guest.close()
    await eventually(lambda: names(backend) == ["vms"], "all are gone")


async def test_changes_reach_all_guests_also_later_ones(backend: Backend, tmp_path: Path) -> None:
    path = f"{tmp_path}/vms.sock"
    with await FakeStreamPeer.connect(path):
        await eventually(lambda: "vms.1" in names(backend), "a port for it")
        await backend.set_port("vms", up=False, queue_frames=7, rate=1_000_000, impairment={"loss": "1%"})
        with await FakeStreamPeer.connect(path):
            await eventually(lambda: "vms.2" in names(backend), "a port for it")
            for port in backend.snapshot().ports:
                assert (port.up, port.queue_frames, port.state) == (False, 7, "down")
                assert (port.rate, port.burst) == (1_000_000, 16_384)
                assert port.impairment is not None
                assert port.impairment.settings["loss"] == "1%"


async def test_the_burst_of_guests_is_that_of_their_port(backend: Backend, tmp_path: Path) -> None:
    path = f"{tmp_path}/vms.sock"
    await backend.set_port("vms", rate=1_000_000)
    with await FakeStreamPeer.connect(path):
        await eventually(lambda: "vms.1" in names(backend), "a port for it")
        for rate, burst in ((10**9, 2_500_000), (1_000_000, 16_384)):
            await backend.set_port("vms", rate=rate)
            assert {port.burst for port in backend.snapshot().ports} == {burst}


async def test_removing_it_removes_its_guests(backend: Backend, tmp_path: Path) -> None:
    guests = [await FakeStreamPeer.connect(f"{tmp_path}/vms.sock") for _ in range(2)]
    await eventually(lambda: len(names(backend)) == 3, "their ports")
    await backend.remove_port("vms.1")
    await guests[0].expect_eof()
    await backend.remove_port("vms")
    await guests[1].expect_eof()
    assert names(backend) == []
    assert not (tmp_path / "vms.sock").exists()
    for guest in guests:
        guest.close()


async def test_there_is_a_limit(backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multi, "_MOST_PEERS", 1)
    with await FakeStreamPeer.connect(f"{tmp_path}/vms.sock"):
        await eventually(lambda: "vms.1" in names(backend), "a port for it")
        with await FakeStreamPeer.connect(f"{tmp_path}/vms.sock") as second:
            await second.expect_eof()
    assert backend.snapshot().ports[0].refused == 1
