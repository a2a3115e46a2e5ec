"""The life of a capture on the backend's side, on channels: who may come, and everything that ends it."""

import asyncio
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.support.frames import BROADCAST, frame, mac
from tests.support.pcapng import Capture, parse
from tests.support.qemu_peers import eventually
from vbackend.capture.filter import compile_filter
from vbackend.capture.pcapng import Interface, LinkType
from vbackend.capture.session import CaptureSession, Tapped
from vbackend.dataplane import Dataplane

FRAME = frame(BROADCAST, mac(1), size=60)


class Lab:
    """A switch with two channels."""

    def __init__(self, dataplane: Dataplane) -> None:
        self.dataplane = dataplane
        segment = dataplane.add_switch()
        self.ports = [dataplane.add_port(queue_frames=4096) for _ in "ab"]
        for port in self.ports:
            dataplane.join(port, segment)
        self.channels = [dataplane.attach_channel(port) for port in self.ports]

        self.wanted: list[Tapped] = []

    def tapped(
        self, expression: str | None = None, *, names: str = "ab"
    ) -> Callable[[], Awaitable[list[Tapped]]]:
        program = None if expression is None else compile_filter(expression, LinkType.ETHERNET, 1000)
        self.wanted = [
            Tapped(Interface(name, "channel"), ((self.ports["ab".index(name)], "both"),), program)
            for name in names
        ]

        async def wanted() -> list[Tapped]:
            return self.wanted

        return wanted

    async def pass_frames(self, count: int) -> None:
        before, _ = self.dataplane.counters(self.ports[0])
        for _ in range(count):
            assert self.channels[0].send(FRAME)
        await eventually(
            lambda: self.dataplane.counters(self.ports[0])[0].frames_out == before.frames_out + count,
            "the frames are through",
        )


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Dataplane() as dataplane:
        yield Lab(dataplane)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[str]:
    yield f"{tmp_path}/capture"
    assert list(tmp_path.iterdir()) == []


async def whole(reader: asyncio.StreamReader) -> Capture:
    return parse(await asyncio.wait_for(reader.read(), 10))


async def begin(path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
    """Connect and read the head: from here on packets are captured."""
    reader, writer = await asyncio.open_unix_connection(path)
    return reader, writer, await asyncio.wait_for(reader.read(1 << 16), 10)


async def test_both_directions_until_the_client_leaves(lab: Lab, place: str) -> None:
    session = CaptureSession(lab.dataplane, lab.tapped(), snaplen=1000)
    task = session.open(place)
    assert stat.S_IMODE(Path(place).stat().st_mode) == 0o600
    await lab.pass_frames(3)  # before the client: not captured
    reader, writer, head = await begin(place)
    assert not Path(place).exists()
    await lab.pass_frames(5)
    writer.write_eof()
    capture = parse(head + await asyncio.wait_for(reader.read(), 10))
    writer.close()
    await task
    await session.close()
    assert [packet.data for packet in capture.of("a", "in")] == [FRAME] * 5
    assert [packet.data for packet in capture.of("b", "out")] == [FRAME] * 5
    assert len(capture.packets) == 10
    assert capture.statistics == {name: {"recv": 5, "drop": 0, "delivered": 5} for name in "ab"}
    times = [packet.time_ns for packet in capture.packets]
    assert times == sorted(times)


async def test_the_count_ends_it(lab: Lab, place: str) -> None:
    task = CaptureSession(lab.dataplane, lab.tapped("ether src 52:54:00:00:00:01"), snaplen=20, count=3).open(
        place
    )
    reader, writer, head = await begin(place)
    await lab.pass_frames(5)
    capture = parse(head + await asyncio.wait_for(reader.read(), 10))
    writer.close()
    await task
    assert [(len(packet.data), packet.length) for packet in capture.packets] == [(20, 60)] * 3


async def test_a_slow_client_loses_packets_and_hears_of_it(lab: Lab, place: str) -> None:
    session = CaptureSession(lab.dataplane, lab.tapped(names="a"), snaplen=1000, limit_bytes=10_000)
    task = session.open(place)
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(place)
        await eventually(lambda: _readable(client), "the head comes")
        for _ in range(20):
            await lab.pass_frames(500)
        reader, writer = await asyncio.open_unix_connection(sock=client)
        writer.write_eof()
        capture = await whole(reader)
        writer.close()
    await task
    counts = capture.statistics["a"]
    assert counts["recv"] == 10_000 == counts["delivered"] + counts["drop"]
    assert counts["drop"] > 0
    assert counts["delivered"] == len(capture.packets) > 0
    assert sum(packet.lost_before for packet in capture.packets) <= counts["drop"]


def _readable(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


async def test_nobody_comes(lab: Lab, place: str) -> None:
    await asyncio.wait_for(
        CaptureSession(lab.dataplane, lab.tapped(), snaplen=9, patience_s=0.01).open(place), 10
    )


async def test_closed_before_anybody_came(lab: Lab, place: str) -> None:
    session = CaptureSession(lab.dataplane, lab.tapped(), snaplen=9)
    session.open(place)
    await session.close()
    await session.close()


async def test_closed_with_a_client(lab: Lab, place: str) -> None:
    session = CaptureSession(lab.dataplane, lab.tapped(), snaplen=900)
    session.open(place)
    reader, writer, head = await begin(place)
    await lab.pass_frames(2)
    await session.close()
    capture = parse(head + await asyncio.wait_for(reader.read(), 10))
    writer.close()
    assert len(capture.packets) == 4
    assert capture.statistics


async def test_closed_with_a_client_that_does_not_read(lab: Lab, place: str) -> None:
    session = CaptureSession(lab.dataplane, lab.tapped(), snaplen=900)
    task = session.open(place)
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        client.connect(place)
        await eventually(lambda: _readable(client), "the head comes")
        for _ in range(20):
            await lab.pass_frames(500)
        await asyncio.wait_for(session.close(), 5)
    assert task.done()


async def test_a_client_that_dies_takes_the_taps_away(lab: Lab, place: str) -> None:
    task = CaptureSession(lab.dataplane, lab.tapped(), snaplen=900).open(place)
    _, writer, _ = await begin(place)
    writer.transport.abort()
    await asyncio.wait_for(task, 10)
    await lab.pass_frames(2)


async def test_ports_and_engines_may_go_first(lab: Lab, place: str) -> None:
    session = CaptureSession(lab.dataplane, lab.tapped(), snaplen=900)
    session.open(place)
    lab.dataplane.remove_port(lab.ports[1])
    reader, writer, head = await begin(place)
    assert lab.channels[0].send(FRAME)
    lab.dataplane.close()
    await session.close()
    capture = parse(head + await asyncio.wait_for(reader.read(), 10))
    writer.close()
    assert [(packet.interface, packet.comment) for packet in capture.packets] == [
        ("a", "dropped: no-destination")
    ]


async def test_ports_join_and_leave_while_it_runs(lab: Lab, place: str) -> None:
    session = CaptureSession(lab.dataplane, lab.tapped(names="a"), snaplen=900)
    session.open(place)
    reader, writer, head = await begin(place)
    await lab.pass_frames(1)
    session.changed()  # nothing did
    lab.tapped(names="ab")
    session.changed()
    await eventually(lambda: len(session._tapped) == 2, "b joined")
    await lab.pass_frames(1)
    lab.wanted = lab.wanted[1:]
    session.changed()
    await eventually(lambda: len(session._tapped) == 1, "a left")
    await lab.pass_frames(1)
    lab.tapped(names="ab")
    session.changed()
    await eventually(lambda: len(session._tapped) == 2, "a is back")
    await lab.pass_frames(1)
    await session.close()
    capture = parse(head + await asyncio.wait_for(reader.read(), 10))
    writer.close()
    assert [packet.interface for packet in capture.packets] == ["a", "a", "b", "b", "a", "b"]
    assert [one.name for one in capture.interfaces] == ["a", "b"]


async def test_one_interface_of_two_ports(lab: Lab, place: str) -> None:
    """As a cable's direction: what the first loses, and what the second is offered."""
    both = Tapped(Interface("a → b", "link x"), ((lab.ports[0], "rx-lost"), (lab.ports[1], "tx")))

    async def wanted() -> list[Tapped]:
        return [both]

    task = CaptureSession(lab.dataplane, wanted, snaplen=900, count=2).open(place)
    reader, writer, head = await begin(place)
    await lab.pass_frames(1)
    lab.dataplane.set_port(lab.ports[0], up=False)
    assert lab.channels[0].send(FRAME)
    capture = parse(head + await asyncio.wait_for(reader.read(), 10))
    writer.close()
    await task
    assert [packet.comment for packet in capture.packets] == [None, "dropped: port-down"]
    assert capture.statistics == {"a → b": {"recv": 2, "drop": 0, "delivered": 2}}


async def test_a_defect_in_what_is_wanted_ends_it_and_is_told(
    lab: Lab, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[list[Tapped]] = [[]]

    async def wanted() -> list[Tapped]:
        return answers.pop()

    session = CaptureSession(lab.dataplane, wanted, snaplen=900)
    task = session.open(place)
    reader, writer, head = await begin(place)
    session.changed()
    assert parse(head + await asyncio.wait_for(reader.read(), 10)).packets == []
    writer.close()
    await task
    assert "capture: ended early" in caplog.text
