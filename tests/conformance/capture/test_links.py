"""Captures of links: an interface for each direction, every frame once for its way with what became of it there."""

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conformance.capture.lab import A, B, Lab, capture_lab
from tests.support.frames import BROADCAST, frame, numbered
from tests.support.pcapng import Capture, parse
from tests.support.qemu_peers import eventually
from tests.support.run import VBACKEND
from vbackend.backend import Backend
from vbackend.errors import ConfigError
from vbackend.ports.parse import parse_port

LAB = "pair"


def place(folder: Path) -> str:
    """Where `--lab pair` looks when the runtime directory is `folder`."""
    path = folder / "vbackend" / "labs" / LAB / "control.sock"
    path.parent.mkdir(parents=True)
    return str(path)


@pytest.fixture
async def cable(tmp_path: Path) -> AsyncIterator[Lab]:
    async with capture_lab(tmp_path, place(tmp_path), segment="cable", name="core") as lab:
        yield lab


@pytest.fixture
async def switch(tmp_path: Path) -> AsyncIterator[Lab]:
    async with capture_lab(tmp_path, place(tmp_path), segment="switch", name="lan") as lab:
        yield lab


def told(found: Capture) -> list[tuple[str, int, str | None]]:
    return [(packet.interface, packet.length, packet.comment) for packet in found.packets]


async def test_a_cable_while_frames_flow(cable: Lab) -> None:
    a, b = cable.peers["a"], cable.peers["b"]
    client = await cable.capture("core", lab=LAB)
    there, back = numbered(BROADCAST, A, 40), numbered(A, B, 30, size=1514)
    await a.send_frames(*there)
    assert await b.recv_frames(40) == there
    await b.send_frames(*back)
    assert await a.recv_frames(30) == back
    found, said = await client.end()
    assert said == "70 packets captured, 0 lost\n"
    assert [packet.data for packet in found.of("a → b")] == there
    assert [packet.data for packet in found.of("b → a")] == back
    assert {(one.name, one.description) for one in found.interfaces} == {
        ("a → b", "link core"),
        ("b → a", "link core"),
    }
    assert {(packet.direction, packet.comment) for packet in found.packets} == {("", None)}
    assert found.statistics["b → a"] == {"recv": 30, "drop": 0, "delivered": 30}
    times = [packet.time_ns for packet in found.packets]
    assert times == sorted(times)


async def test_what_is_lost_says_where_and_why(cable: Lab) -> None:
    a = cable.peers["a"]
    client = await cable.capture(lab=LAB)
    cable.peers["b"].close()
    await eventually(lambda: cable.port("b").session is None, "b is gone")
    await a.send_frames(frame(BROADCAST, A, size=60))
    await eventually(lambda: cable.port("b").tx.dropped == 1, "nobody takes it")
    await cable.backend.set_port("a", up=False)
    await a.send_frames(frame(BROADCAST, A, size=61))
    await eventually(lambda: cable.port("a").rx.dropped == 1, "its own port is down")
    await cable.backend.set_port("a", up=True)
    await cable.backend.set_port("b", up=False)
    await a.send_frames(frame(BROADCAST, A, size=62))
    await eventually(lambda: cable.port("b").tx.dropped == 2, "the other port is down")
    found, _ = await client.end()
    assert told(found) == [
        ("a → b", 60, "dropped: no-peer"),
        ("a → b", 61, "dropped: port-down"),
        ("a → b", 62, "dropped: port-down"),
    ]


async def test_a_full_queue_shows_frame_by_frame(cable: Lab) -> None:
    client = await cable.capture(lab=LAB)
    frames = numbered(BROADCAST, A, 3000, size=1000)
    for start in range(0, len(frames), 100):
        await cable.peers["a"].send_frames(*frames[start : start + 100])
    await eventually(lambda: cable.port("b").tx.frames_in == 3000, "all frames are offered to b")
    found, _ = await client.end()
    assert [packet.data for packet in found.of("a → b")] == frames
    lost = [packet for packet in found.packets if packet.comment == "dropped: queue-full"]
    assert len(lost) == cable.port("b").tx.drops["queue-full"] > 0
    got = await cable.peers["b"].recv_frames(3000 - len(lost))
    assert got == [packet.data for packet in found.packets if packet.comment is None]


async def test_the_ends_of_a_switch(switch: Lab) -> None:
    a, b = switch.peers["a"], switch.peers["b"]
    client = await switch.capture("lan/a", "--filter", "greater 61", "--snaplen", "20", lab=LAB)
    await a.send_frames(*[frame(BROADCAST, A, size=size) for size in (60, 61, 62)])
    await b.recv_frames(3)
    await b.send_frames(frame(A, B, size=63))
    await a.recv_frame()
    found, _ = await client.end()
    assert told(found) == [("a → lan", 61, None), ("a → lan", 62, None), ("lan → a", 63, None)]
    assert {one.snaplen for one in found.interfaces} == {20}
    assert {one.filter for one in found.interfaces} == {"greater 61"}


async def test_links_join_and_leave(switch: Lab) -> None:
    """The second station of a name is the same link again; what others do meanwhile is not missed."""
    a = switch.peers["a"]
    client = await switch.capture(lab=LAB)
    sizes = iter(range(60, 100))

    async def send() -> None:
        await a.send_frames(frame(BROADCAST, A, size=next(sizes)))
        for name, peer in switch.peers.items():
            if name != "a":
                await peer.recv_frame()

    def joined() -> bool:
        return switch.file.read_bytes().count("lan → c".encode()) > 0

    await send()
    for _ in range(2):
        await switch.add("c")
        await eventually(joined, "c is described")
        await send()
        await switch.remove("c")
        await send()
    found, _ = await client.end()
    assert [packet.length for packet in found.of("a → lan")] == [60, 61, 62, 63, 64]
    assert [packet.length for packet in found.of("lan → b")] == [60, 61, 62, 63, 64]
    assert [packet.length for packet in found.of("lan → c")] == [61, 63]
    assert [one.name for one in found.interfaces].count("lan → c") == 1
    assert len(found.statistics) == len(found.interfaces) == 6


async def test_a_cable_that_loses_an_end_is_no_link_until_it_has_another(cable: Lab) -> None:
    client = await cable.capture(lab=LAB)
    await cable.remove("b")
    await cable.peers["a"].send_frames(frame(BROADCAST, A, size=60))
    await eventually(lambda: cable.port("a").rx.dropped == 1, "it goes nowhere")
    c = await cable.add("c")
    await eventually(lambda: "a → c".encode() in cable.file.read_bytes(), "the new cable is described")
    await cable.peers["a"].send_frames(frame(BROADCAST, A, size=61))
    await c.recv_frame()
    found, _ = await client.end()
    assert told(found) == [("a → c", 61, None)]


async def test_a_reader_that_stalls_or_dies_delays_nobody(cable: Lab) -> None:
    a, b = cable.peers["a"], cable.peers["b"]
    path = await cable.backend.capture(links=[], beside=str(cable.folder / "x"))
    frames = numbered(BROADCAST, A, 12_000, size=1500)  # more than sink and socket hold
    with socket.socket(socket.AF_UNIX) as stalled:
        stalled.setblocking(False)
        await asyncio.get_running_loop().sock_connect(stalled, path)
        receiving = asyncio.create_task(b.recv_frames(len(frames)))
        for start in range(0, len(frames), 50):
            await a.send_frames(*frames[start : start + 50])
            await asyncio.sleep(0)
        assert await asyncio.wait_for(receiving, 60) == frames
    await a.send_frames(frames[0])
    assert await b.recv_frame() == frames[0]
    await eventually(lambda: not cable.backend._captures.sessions(), "the capture has ended")
    assert cable.port("b").tx.dropped == 0


async def test_a_unit_on_a_cable_is_shown_as_the_frames_of_the_other_end(tmp_path: Path) -> None:
    async with Backend(name="core", segment="cable") as backend:
        specs = [f"stream:unix:{tmp_path}/a.sock,name=a", f"unit:{tmp_path}/u.sock,name=u,addr=10.7.0.1"]
        await backend.start([parse_port(spec) for spec in specs])
        path = await backend.capture(links=["core"], beside=f"{tmp_path}/x")
        reader, writer = await asyncio.open_unix_connection(path)
        head = b""
        while "u → a".encode() not in head:
            head += await asyncio.wait_for(reader.read(1 << 16), 10)
        writer.close()
        assert "a → u".encode() in head
        assert head.count(b"\1\0\0\0") >= 2


async def test_all_links_of_a_lab_in_one_stream_on_one_clock(tmp_path: Path) -> None:
    """Named as labs name them: a frame that crosses a switch and then, sent on, a cable."""
    async with Backend(name="two-routers", segment=None) as backend:
        await backend.start([])
        backend.add_segment("lan", "switch")
        backend.add_segment("core", "cable")
        lan = [await backend.open_channel(name, segment="lan") for name in ("h1:eth0", "r1:eth0")]
        core = [await backend.open_channel(name, segment="core") for name in ("r1:eth1", "r2:eth1")]
        place = await backend.capture(links=[], beside=f"{tmp_path}/x", count=3)
        reader, writer = await asyncio.open_unix_connection(place)
        head = await asyncio.wait_for(reader.readuntil("r2:eth1 → r1:eth1".encode()), 10)
        assert await lan[0].send(frame(BROADCAST, A, size=60))
        assert await asyncio.wait_for(lan[1].recv(), 10) == frame(BROADCAST, A, size=60)
        assert await core[0].send(frame(BROADCAST, A, size=61))
        found = parse(head + await asyncio.wait_for(reader.read(), 10))
        writer.close()
        # Who sent it and who gets it are told by one turn; the receiver's side first.
        assert sorted(told(found)[:2]) == [("h1:eth0 → lan", 60, None), ("lan → r1:eth0", 60, None)]
        assert told(found)[2:] == [("r1:eth1 → r2:eth1", 61, None)]
        assert [one.name for one in found.interfaces][-2:] == ["r1:eth1 → r2:eth1", "r2:eth1 → r1:eth1"]
        times = [packet.time_ns for packet in found.packets]
        assert times == sorted(times)


async def test_what_there_is_to_capture(cable: Lab) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [*VBACKEND, "capture", "--lab", LAB, "--interfaces"],
        env={"XDG_RUNTIME_DIR": str(cable.folder)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "core  a → b\ncore  b → a\n"), done.stderr
    with pytest.raises(ConfigError, match="there is no link 'edge'; there are core"):
        await cable.backend.capture(links=["edge"], beside=str(cable.folder / "x"))
    await cable.remove("b")
    with pytest.raises(ConfigError, match="there is no link yet"):
        await cable.backend.capture(links=[], beside=str(cable.folder / "x"))


async def test_an_impaired_cable_tells_each_frames_story(cable: Lab) -> None:
    """One way only, and what arrives is what the capture shows, with flipped bits and duplicates."""
    a, b = cable.peers["a"], cable.peers["b"]
    words = {"delay": "5ms", "loss": "20%", "duplicate": "20%", "corrupt": "20%", "seed": "7"}
    await cable.backend.set_port("b", impairment=words)
    client = await cable.capture(lab=LAB)
    there, back = numbered(BROADCAST, A, 100, size=200), numbered(A, B, 20)
    await a.send_frames(*there)
    await b.send_frames(*back)
    assert await a.recv_frames(20) == back

    def through() -> bool:
        tx = cable.port("b").tx
        return tx.frames_in >= 100 and tx.frames_in == tx.frames_out + tx.dropped

    await eventually(through, "all are lost or have arrived")
    found, _ = await client.end()
    stories = [packet.comment or "" for packet in found.of("a → b")]
    lost = [story == "lost: impairment loss, seed 7" for story in stories]
    arrived = await b.recv_frames(lost.count(False))
    assert [packet.data for packet, gone in zip(found.of("a → b"), lost, strict=True) if not gone] == arrived
    assert sum(lost) == cable.port("b").tx.drops["loss"] > 0
    for word in ("duplicate", "corrupted bit"):
        assert any(word in story for story in stories), word
    assert all(gone or "delayed " in story for story, gone in zip(stories, lost, strict=True))
    assert {packet.comment for packet in found.of("b → a")} == {None}
    changed = [packet.data for packet in found.of("a → b") if "corrupted" in (packet.comment or "")]
    for data in changed:
        assert min((int.from_bytes(data) ^ int.from_bytes(one)).bit_count() for one in there) == 1
