"""VDE ports: each client a port of its own, with the number it wants, for as long as its control connection."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.accounting import assert_accounts
from tests.support.frames import BROADCAST, frame, mac, numbered
from tests.support.qemu_peers import eventually
from tests.support.vde_peers import FakeVdeClient, connect, request
from vbackend.backend import Backend, BackendEvent
from vbackend.errors import ConfigError
from vbackend.ports import multi, vde
from vbackend.ports.parse import parse_port
from vbackend.snapshot import PortSnapshot


class Lab:
    def __init__(self, backend: Backend, folder: Path) -> None:
        self.backend = backend
        self.folder = folder
        self.switch = folder / "sw"
        self.refused: list[str] = []
        backend.subscribe(self._note)

    async def plug(self, name: str, *, port: int = 0, version: int = 3, kind: int = 0) -> FakeVdeClient:
        return await FakeVdeClient.plug(
            self.switch, self.folder / name, port=port, version=version, kind=kind
        )

    async def ports(self, *names: str) -> None:
        await eventually(lambda: self.names == ["sw", *names], f"ports {names}")

    @property
    def names(self) -> list[str]:
        return [port.name for port in self.backend.snapshot().ports]

    @property
    def port(self) -> PortSnapshot:
        return self.backend.snapshot().ports[0]

    def _note(self, event: BackendEvent) -> None:
        if event.name == "PORT_REFUSED":
            self.refused.append(str(event.data["reason"]))


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with Backend(name="test") as backend:
        await backend.start([parse_port(f"vde:{tmp_path}/sw,queue=32")])
        yield Lab(backend, tmp_path)


async def test_clients_are_ports_that_talk_to_each_other(lab: Lab) -> None:
    assert (lab.port.state, lab.port.detail) == ("listening", f"in {lab.switch}")
    with await lab.plug("a") as a, await lab.plug("b", version=1) as b:
        assert a.switch == os.fsencode(lab.switch / f"001.{os.getpid()}")
        await lab.ports("sw.1", "sw.2")
        _, first, second = lab.backend.snapshot().ports
        assert first.session is not None
        assert first.session.peer.startswith(f"unix pid {os.getpid()} (")
        assert first.session.peer.endswith("): fake")
        assert (first.kind, first.parent, first.queue_frames, first.where) == (
            *("vde", "sw", 32),
            lab.port.where,
        )
        assert second.state == "connected"
        await a.send(frame(BROADCAST, mac(1)))
        assert await b.recv() == frame(BROADCAST, mac(1))
        for each in numbered(mac(1), mac(2), 20):
            await b.send(each)
            assert await a.recv() == each
        assert_accounts(lab.backend.snapshot())
    await lab.ports()
    assert lab.port.last_end.endswith(": the peer closed the connection")
    assert lab.port.sessions == 2
    assert [path.name for path in lab.switch.iterdir()] == ["ctl"]


async def test_frames_that_were_sent_last_arrive(lab: Lab) -> None:
    with await lab.plug("a") as a:
        for turn in range(20):
            with await lab.plug(f"b{turn}") as b:
                last = frame(BROADCAST, mac(2), turn.to_bytes(2, "big"))
                await b.send(last)
            assert await a.recv() == last
        assert_accounts(lab.backend.snapshot())


async def test_a_number_can_be_wanted(lab: Lab) -> None:
    with await lab.plug("a", port=7) as a, await lab.plug("b"), await lab.plug("c", kind=1) as c:
        await lab.ports("sw.7", "sw.1", "sw.0")
        assert a.switch.endswith(f"/007.{os.getpid()}".encode())
        assert c.switch.endswith(f"/000.{os.getpid()}".encode())
        for number in (7, 1025):
            with pytest.raises(EOFError):
                await lab.plug(f"d{number}", port=number)
    await lab.ports()
    assert lab.refused == [
        "it wants port 7, which another one has",
        "it wants port 1025; there are 0 to 1024",
    ]
    assert lab.port.refused == 2


async def test_the_data_socket_s_end_is_seen_with_the_next_frame(lab: Lab) -> None:
    with await lab.plug("a") as a, await lab.plug("b") as b:
        b.data.close()
        await a.send(frame(BROADCAST, mac(1)))
        await lab.ports("sw.1")
        await b.expect_eof()
    await lab.ports()


async def test_what_is_said_later_is_not_heard_for_ever(lab: Lab) -> None:
    with await lab.plug("a") as a:
        await asyncio.get_running_loop().sock_sendall(a.control, b"more of a description")
        await a.send(frame(BROADCAST, mac(1)))
        await eventually(lambda: lab.backend.snapshot().ports[1].rx.frames_in == 1, "it has its port")
        await asyncio.get_running_loop().sock_sendall(a.control, bytes(vde._MOST_CHATTER))
        await lab.ports()
    assert lab.port.last_end == "sw.1: the peer does not stop talking on its control connection"


async def test_a_request_may_come_in_pieces(lab: Lab) -> None:
    data = request(os.fsencode(lab.folder / "missing"))
    with await connect(lab.switch) as control:
        for at in range(122):
            await asyncio.get_running_loop().sock_sendall(control, data[at : at + 1])
            await asyncio.sleep(0)
        with pytest.raises(EOFError):
            await FakeVdeClient.hear(control)
    assert lab.refused == ["the data socket that it names cannot be reached: No such file or directory"]


async def test_who_says_nothing_is_sent_away(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vde, "_PATIENCE_S", 0.05)
    with await connect(lab.switch) as control:
        await asyncio.get_running_loop().sock_sendall(control, request(b"/a")[:50])
        with pytest.raises(EOFError):
            await FakeVdeClient.hear(control)
    assert lab.refused == ["it did not ask for a port within 0 s; 50 bytes came"]


async def test_there_are_limits(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vde, "_MOST_ASKING", 1)
    monkeypatch.setattr(multi, "_MOST_PEERS", 1)
    with await connect(lab.switch) as first, await connect(lab.switch):
        with pytest.raises(EOFError):
            await FakeVdeClient.hear(first)
        with await lab.plug("a"), pytest.raises(EOFError):
            await lab.plug("b")
    wanted = "1 others came before it had asked for a port"
    assert lab.refused == [wanted, wanted, "1 peers are connected"]


async def test_a_look_at_the_switch_is_no_refusal(lab: Lab) -> None:
    (await connect(lab.switch)).close()
    with await lab.plug("a"):
        assert lab.refused == []


async def test_changes_reach_all_clients(lab: Lab) -> None:
    with await lab.plug("a"):
        await lab.backend.set_port("sw", up=False, queue_frames=7)
        with await lab.plug("b"):
            await lab.ports("sw.1", "sw.2")
            for port in lab.backend.snapshot().ports:
                assert (port.up, port.queue_frames, port.state) == (False, 7, "down")


async def test_removing_it_ends_its_clients(lab: Lab) -> None:
    with await lab.plug("a") as a, await lab.plug("b") as b, await connect(lab.switch) as asking:
        await lab.ports("sw.1", "sw.2")
        await lab.backend.remove_port("sw.2")
        await b.expect_eof()
        await lab.ports("sw.1")
        (lab.folder / "a").unlink()
        await lab.backend.remove_port("sw")
        await a.expect_eof()
        with pytest.raises(EOFError):
            await FakeVdeClient.hear(asking)
    assert lab.backend.snapshot().ports == ()
    assert not lab.switch.exists()


async def test_one_switch_a_directory(lab: Lab) -> None:
    with pytest.raises(ConfigError, match="in use by process"):
        await lab.backend.add_port(parse_port(f"vde:{lab.switch},name=other"))
    with await lab.plug("a"):
        await lab.ports("sw.1")
