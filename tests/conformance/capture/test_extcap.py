"""Wireshark's side of `vbackend extcap`: the real tshark lists, and captures through fifos."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.conformance.capture.lab import A, Lab, capture_lab, judged
from tests.support.frames import BROADCAST, frame, numbered
from tests.support.pcapng import parse
from tests.support.qemu_peers import eventually
from vbackend.control.extcap import install

TOOLS = pytest.mark.skipif(
    shutil.which("tshark") is None, reason="needs tshark: `tools/dev setup` as root, or install it"
)


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    control = tmp_path / "vbackend" / "labs" / "pair" / "control.sock"
    control.parent.mkdir(parents=True)
    async with capture_lab(tmp_path, str(control), segment="cable", name="core") as lab:
        yield lab


def environment(lab: Lab) -> dict[str, str]:
    return {**os.environ, "HOME": str(lab.folder / "home"), "XDG_RUNTIME_DIR": str(lab.folder)}


def installed(lab: Lab) -> Path:
    env = environment(lab)
    env.pop("XDG_CONFIG_HOME", None)
    return install(env)[0]


async def extcap(lab: Lab, *arguments: str) -> tuple[int, str, str]:
    """The installed program, as Wireshark runs it."""
    child = await asyncio.create_subprocess_exec(
        installed(lab),
        *arguments,
        env=environment(lab),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, said = await asyncio.wait_for(child.communicate(), 60)
    assert child.returncode is not None
    return child.returncode, out.decode(), said.decode()


async def offer_until(lab: Lab, condition: Callable[[], bool]) -> None:
    """Frames through the cable until something is so."""

    async def offer() -> None:
        while not condition():
            await lab.peers["a"].send_frames(frame(BROADCAST, A, size=60))
            await lab.peers["b"].recv_frame()
            await asyncio.sleep(0.02)

    await asyncio.wait_for(offer(), 60)


async def test_sentences(lab: Lab) -> None:
    """Every answer is sentences and nothing else; a socket that hangs, and one that nobody serves, are left out."""
    with socket.socket(socket.AF_UNIX) as hanging, socket.socket(socket.AF_UNIX) as stale:
        hanging.bind(f"{lab.folder}/vbackend/hanging.sock")
        hanging.listen(1)
        stale.bind(f"{lab.folder}/vbackend/stale.sock")
        version, *interfaces = (await extcap(lab, "--extcap-interfaces", "--extcap-version=4.0"))[
            1
        ].splitlines()
    assert version.startswith("extcap {version=")
    assert interfaces == [
        "interface {value=vbackend-lab-pair}{display=vbackend lab pair}",
        "interface {value=vbackend-lab-pair-core}{display=vbackend lab pair: core}",
    ]
    this = ("--extcap-interface", "vbackend-lab-pair-core")
    ethernet = "dlt {number=1}{name=EN10MB}{display=Ethernet}\n"
    assert await extcap(lab, "--extcap-dlts", *this) == (0, ethernet, "")
    status, config, _ = await extcap(lab, "--extcap-config", *this)
    assert (status, config.count("arg {number=")) == (0, 1)
    assert await extcap(lab, *this, "--extcap-capture-filter", "tcp port 80") == (0, "", "")
    assert "host and" in (await extcap(lab, *this, "--extcap-capture-filter", "host and"))[1]
    gone = await extcap(lab, "--extcap-dlts", "--extcap-interface", "vbackend-x")
    assert (gone[:2], gone[2].count("\n")) == ((2, ""), 1)


@TOOLS
async def test_tshark_lists_and_captures_live(lab: Lab) -> None:
    installed(lab)
    listed = await asyncio.to_thread(
        subprocess.run, ["tshark", "-D"], env=environment(lab), capture_output=True, text=True, timeout=60
    )
    assert "vbackend-lab-pair (vbackend lab pair)" in listed.stdout
    assert "vbackend-lab-pair-core (vbackend lab pair: core)" in listed.stdout
    out = lab.folder / "seen"
    fields = [word for name in ("interface_name", "comment", "len") for word in ("-e", f"frame.{name}")]
    with out.open("wb") as seen:
        child = await asyncio.create_subprocess_exec(
            *("tshark", "-l", "-n", "-i", "vbackend-lab-pair", "-f", "ether src 52:54:00:00:00:01"),
            *("-c", "3", "-T", "fields", *fields),
            env=environment(lab),
            stdin=subprocess.DEVNULL,
            stdout=seen,
            stderr=subprocess.PIPE,
        )
    await offer_until(lab, lambda: out.stat().st_size > 0)
    await lab.backend.set_port("b", up=False)
    await lab.peers["a"].send_frames(*[frame(BROADCAST, A, size=61)] * 3)
    _, said = await asyncio.wait_for(child.communicate(), 60)
    assert child.returncode == 0, said
    rows = out.read_text().splitlines()
    assert set(rows) <= {"a → b\t\t60", "a → b\tdropped: port-down\t61"}, said
    assert len(rows) >= 3
    await eventually(lambda: not lab.backend._captures.sessions(), "the capture has ended")


async def started(lab: Lab) -> tuple[asyncio.subprocess.Process, int]:
    """The program capturing to a fifo, and our end of it, after its first bytes."""
    fifo = lab.folder / "fifo"
    os.mkfifo(fifo)
    child = await asyncio.create_subprocess_exec(
        installed(lab),
        *("--capture", "--extcap-interface", "vbackend-lab-pair", "--fifo", fifo),
        *("--extcap-capture-filter", "", "--snaplen", "100", "--something-new", "x"),
        env=environment(lab),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    reader = await asyncio.to_thread(os.open, fifo, os.O_RDONLY)
    return child, reader


async def test_it_ends_when_the_reader_goes_and_nothing_happens(lab: Lab) -> None:
    child, reader = await started(lab)
    assert await asyncio.to_thread(os.read, reader, 10)
    os.close(reader)
    assert await asyncio.wait_for(child.communicate(), 60) == (b"", b"")
    assert child.returncode == 0
    await eventually(lambda: not lab.backend._captures.sessions(), "the capture has ended")


async def test_a_signal_ends_it_with_a_whole_file(lab: Lab) -> None:
    child, reader = await started(lab)
    first = await asyncio.to_thread(os.read, reader, 1 << 16)
    frames = numbered(BROADCAST, A, 5, size=200)
    await lab.peers["a"].send_frames(*frames)
    await lab.peers["b"].recv_frames(5)
    child.send_signal(signal.SIGTERM)

    def rest() -> bytes:
        with os.fdopen(reader, "rb") as stream:
            return stream.read()

    data = first + await asyncio.wait_for(asyncio.to_thread(rest), 60)
    assert await asyncio.wait_for(child.communicate(), 60) == (b"", b"")
    assert child.returncode == 0
    found = parse(data)
    assert [packet.data for packet in found.packets] == [one[:100] for one in frames]
    (lab.folder / "file").write_bytes(data)
    judged(lab.folder / "file", found)
