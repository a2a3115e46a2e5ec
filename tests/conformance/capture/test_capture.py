"""Captures of a running backend: nothing of the traffic changes, and tshark and tcpdump can read every file.

Two guests a and b on a switch speak `-netdev stream`. The capture comes through the control socket, as users have it.
"""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.conformance.capture.lab import A, B, Lab, capture_lab
from tests.support.frames import BROADCAST, frame, numbered
from tests.support.qemu_peers import eventually
from tests.support.run import VBACKEND
from vbackend.errors import ConfigError

TOOLS = pytest.mark.skipif(
    shutil.which("tshark") is None, reason="needs tshark: `tools/dev setup` as root, or install it"
)


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with capture_lab(tmp_path, f"{tmp_path}/control", segment="switch") as lab:
        yield lab


async def test_two_ports_while_frames_flow(lab: Lab) -> None:
    a, b = lab.peers["a"], lab.peers["b"]
    client = await lab.capture("a", "b")
    there, back = numbered(BROADCAST, A, 40), numbered(A, B, 30, size=1514)
    await a.send_frames(*there)
    assert await b.recv_frames(40) == there
    await b.send_frames(*back)
    assert await a.recv_frames(30) == back
    found, said = await client.end()
    assert said == "140 packets captured, 0 lost\n"
    for name, direction, frames in (
        ("a", "in", there),
        ("b", "out", there),
        ("b", "in", back),
        ("a", "out", back),
    ):
        assert [packet.data for packet in found.of(name, direction)] == frames
    assert [(one.name, one.description) for one in found.interfaces] == [
        (name, f"stream:unix:{lab.folder}/{name}.sock") for name in "ab"
    ]
    assert {packet.comment for packet in found.packets} == {None}
    assert found.statistics["a"] == {"recv": 70, "drop": 0, "delivered": 70}


async def test_filter_snaplen_and_count(lab: Lab) -> None:
    a, b = lab.peers["a"], lab.peers["b"]
    client = await lab.capture("a", "--filter", "ether proto 0x9999", "--snaplen", "20", "--count", "3")
    frames = [frame(BROADCAST, A, size=60, ethertype=kind) for kind in (0x88B5, 0x9999) * 5]
    await a.send_frames(*frames)
    await b.recv_frames(10)
    found, said = await client.end(signal=False)
    assert said == "3 packets captured, 0 lost\n"
    assert [packet.data for packet in found.packets] == [frame(BROADCAST, A, size=20, ethertype=0x9999)] * 3
    assert found.interfaces[0].filter == "ether proto 0x9999"
    assert found.interfaces[0].snaplen == 20


async def test_a_lost_frame_says_why(lab: Lab) -> None:
    a, b = lab.peers["a"], lab.peers["b"]
    client = await lab.capture()
    b.close()
    await eventually(lambda: lab.port("b").session is None, "b is gone")
    await a.send_frames(frame(BROADCAST, A, size=60))
    await eventually(lambda: lab.port("b").tx.dropped == 1, "nobody takes it")
    await lab.backend.set_port("a", up=False)
    await a.send_frames(frame(BROADCAST, A, size=61))
    await eventually(lambda: lab.port("a").rx.dropped == 1, "the port is down")
    found, _ = await client.end()
    told = [(packet.interface, packet.direction, packet.length, packet.comment) for packet in found.packets]
    assert told == [
        ("a", "in", 60, None),
        ("b", "out", 60, "dropped: no-peer"),
        ("a", "in", 61, "dropped: port-down"),
    ]


async def test_a_full_queue_shows_frame_by_frame(lab: Lab) -> None:
    """b does not read: what its queue took has no verdict, what it dropped has."""
    a = lab.peers["a"]
    client = await lab.capture("b")
    frames = numbered(BROADCAST, A, 3000, size=1000)
    for start in range(0, len(frames), 100):
        await a.send_frames(*frames[start : start + 100])
    await eventually(lambda: lab.port("b").tx.frames_in == 3000, "all frames are offered to b")
    found, _ = await client.end()
    assert [packet.data for packet in found.of("b", "out")] == frames
    lost = [packet for packet in found.packets if packet.comment == "dropped: queue-full"]
    tx = lab.port("b").tx
    assert len(lost) == tx.drops["queue-full"] == tx.dropped > 0
    got = await lab.peers["b"].recv_frames(3000 - len(lost))
    assert got == [packet.data for packet in found.packets if packet.comment is None]


async def test_start_and_stop_under_load(lab: Lab) -> None:
    a, b = lab.peers["a"], lab.peers["b"]
    frames = numbered(BROADCAST, A, 5000)

    async def send() -> None:
        for start in range(0, len(frames), 50):
            await a.send_frames(*frames[start : start + 50])
            await asyncio.sleep(0)

    receiving = asyncio.create_task(b.recv_frames(len(frames)))
    sending = asyncio.create_task(send())
    for _ in range(10):
        path = await lab.backend.capture(["a", "b"], beside=str(lab.folder / "x"))
        reader, writer = await asyncio.open_unix_connection(path)
        await reader.read(100)
        writer.close()
        await writer.wait_closed()
    await sending
    assert await receiving == frames
    assert lab.port("a").rx.dropped == lab.port("b").tx.dropped == 0


async def test_a_killed_client_and_a_removed_port_disturb_nobody(lab: Lab) -> None:
    a, b = lab.peers["a"], lab.peers["b"]
    client = await lab.capture("a", "b")
    client.child.kill()
    await client.child.wait()
    lab.file.unlink()
    client = await lab.capture("a", "b")
    await a.send_frames(frame(BROADCAST, A, size=60))
    await b.recv_frame()
    await lab.backend.remove_port("b")
    await a.send_frames(frame(BROADCAST, A, size=61))
    await eventually(lambda: lab.port("a").rx.dropped == 1, "it goes nowhere")
    found, _ = await client.end()
    assert [(packet.interface, packet.length) for packet in found.packets] == [
        ("a", 60),
        ("b", 60),
        ("a", 61),
    ]
    assert found.packets[-1].comment == "dropped: no-destination"


async def test_the_backend_stops(lab: Lab) -> None:
    client = await lab.capture()
    await lab.peers["a"].send_frames(frame(BROADCAST, A, size=60))
    await lab.peers["b"].recv_frame()
    await asyncio.wait_for(lab.backend.stop(), 5)
    found, said = await client.end(signal=False)
    assert said == "2 packets captured, 0 lost\n"
    assert set(found.statistics) == {"a", "b"}
    await lab.backend.start([])


async def test_what_cannot_be_captured(lab: Lab) -> None:
    beside = str(lab.folder / "x")
    for names, expression, words in (
        (["zz"], None, "there is no port 'zz'; there are a, b"),
        (["a"], "host and", "filter 'host and': "),
    ):
        with pytest.raises(ConfigError, match=words):
            await lab.backend.capture(names, beside=beside, expression=expression)


@TOOLS
async def test_a_live_reader_sees_a_packet_at_once(lab: Lab) -> None:
    """As `vbackend capture | wireshark -k -i -`: tshark prints the packet while the capture goes on."""
    a, b = lab.peers["a"], lab.peers["b"]
    words = " ".join(
        f"'{word}'" for word in (*VBACKEND, "capture", "a", "--control", f"{lab.folder}/control")
    )
    out = lab.folder / "seen"
    child = await asyncio.create_subprocess_shell(
        f"{words} | exec tshark -l -n -i - -c 1 -T fields -e eth.src > {out}",
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def seen() -> bool:
        return out.exists() and "52:54:00:00:00:01" in out.read_text()

    async def offer_until(condition: Callable[[], bool]) -> None:
        while not condition():
            await a.send_frames(frame(BROADCAST, A, size=60))
            await b.recv_frame()
            await asyncio.sleep(0.02)

    await asyncio.wait_for(offer_until(seen), 30)
    # The reader has left; the client notices with the next packet.
    await asyncio.wait_for(offer_until(lambda: child.returncode is not None), 30)
    assert child.returncode == 0
