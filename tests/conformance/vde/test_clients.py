"""Real programs of VDE in the place of guests, and a real vde_switch beside ours."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

import pytest

from tests.conformance.vde.lab import Lab
from tests.support.frames import BROADCAST, frame, mac, vlan_frame
from tests.support.privileges import as_user
from tests.support.qemu_peers import eventually
from tests.support.run import NotReadyError, vbackend_run, wait_until
from tests.support.vde_peers import FakeVdeClient

pytestmark = pytest.mark.skipif(
    shutil.which("vde_plug") is None or shutil.which("vde_switch") is None,
    reason="there is no vde_switch: on Debian it is in package vde2",
)

# What vde_plug and its libraries take in one piece.
SIZES = [60, 1514, 9018, 9216]


@contextmanager
def program(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            yield child
        finally:
            child.kill()


@contextmanager
def vde_switch(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    with program("vde_switch", "--sock", str(directory), "--rcfile", os.devnull) as child:
        wait_until(lambda: (directory / "ctl").exists(), "vde_switch listens")
        yield child


def pipe(child: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert child.stdin is not None
    assert child.stdout is not None
    return child.stdin, child.stdout


def put(child: subprocess.Popen[bytes], sent: bytes) -> None:
    """Give vde_plug a frame: a big-endian u16 length before it (libvdestream.c)."""
    to, _ = pipe(child)
    to.write(len(sent).to_bytes(2, "big") + sent)
    to.flush()


async def taken(child: subprocess.Popen[bytes]) -> bytes:
    _, out = pipe(child)

    def read() -> bytes:
        return out.read(int.from_bytes(out.read(2), "big"))

    return await asyncio.wait_for(asyncio.to_thread(read), 10)


async def test_two_plugs(lab: Lab) -> None:
    directory = str(lab.directory)
    with program("vde_plug", directory) as a, program("vde_plug", f"vde://{directory}[7]") as b:
        await lab.clients(2)
        assert {port.name for port in lab.ports} == {"sw.1", "sw.7"}
        session = lab.ports[0].session
        assert session is not None
        assert "(vde_plug): vdeplug" in session.peer
        for sent in [frame(BROADCAST, mac(1), size=size) for size in SIZES] + [
            vlan_frame(BROADCAST, mac(1), 7)
        ]:
            put(a, sent)
            assert await taken(b) == await lab.channel.recv() == sent
        answer = frame(mac(1), mac(2), b"answer")
        put(b, answer)
        assert await taken(a) == answer
        assert lab.channel.recv_ready() == []
        a.kill()
        await lab.clients(1)
    await lab.clients(0)


@pytest.mark.parametrize("words", ["vde_plug {ours} {theirs}", "dpipe vde_plug {ours} = vde_plug {theirs}"])
async def test_a_cable_to_a_real_switch(words: str, lab: Lab, tmp_path: Path) -> None:
    """A frame crosses vbackend, the cable, and a real vde_switch to its client, and back."""
    theirs = tmp_path / "theirs"
    with ExitStack() as stack:
        stack.enter_context(vde_switch(theirs))
        command = words.format(ours=lab.directory, theirs=theirs).split()
        stack.enter_context(program(*command))
        far = stack.enter_context(await FakeVdeClient.plug(theirs, tmp_path / "far"))
        near = stack.enter_context(await lab.plug("near"))
        await lab.clients(2)
        for size in SIZES[:2]:
            await _until_heard(near, far, frame(BROADCAST, mac(1), size=size))
            back = frame(mac(1), mac(2), size=size)
            await far.send(back)
            assert await near.recv() == back


@pytest.mark.root
@pytest.mark.parametrize(("ours", "theirs"), [(0, 65534), (65534, 0), (65534, 65533)])
async def test_a_plug_of_another_user(ours: int, theirs: int) -> None:
    """Whoever the mode lets in has a port, whichever of the two is root."""

    def user(uid: int) -> tuple[str, ...]:
        return as_user(uid) if uid else ()

    with TemporaryDirectory(prefix="vb-") as folder:
        place = Path(folder)
        os.chown(place, ours, ours)
        place.chmod(0o755)
        switch = place / "sw"
        with (
            vbackend_run(place, f"vde:{switch},mode=0666", prefix=user(ours)) as run,
            program(*user(theirs), "vde_plug", str(switch)) as plug,
        ):
            run.wait_for(lambda: len(run.snapshot().ports) == 2, "it has a port")
            put(plug, frame(BROADCAST, mac(1)))
            run.wait_for(lambda: run.port("sw.1").rx.frames_in == 1, "its frame")
        assert not switch.exists()


async def _until_heard(near: FakeVdeClient, far: FakeVdeClient, sent: bytes) -> None:
    """The cable has two ends, of which the far one may come a moment later."""
    for _ in range(100):
        await near.send(sent)
        try:
            while await asyncio.wait_for(far.recv(), 0.1) != sent:
                pass
        except TimeoutError:
            continue
        return
    raise AssertionError("nothing arrived")


def test_each_refuses_the_other_s_living_directory(tmp_path: Path) -> None:
    place = tmp_path / "sw"
    with vde_switch(place) as real:
        with pytest.raises(NotReadyError, match=rf"in use by process {real.pid} \(vde_switch\)"):
            vbackend_run(tmp_path, f"vde:{place}").__enter__()
        assert (place / "ctl").exists()
        real.kill()
        real.wait()
        assert (place / "ctl").exists(), "it left it behind"
        with vbackend_run(tmp_path, f"vde:{place}") as run:
            assert run.port("sw").state == "listening"
            done = subprocess.run(
                ["vde_switch", "--sock", str(place), "--rcfile", os.devnull],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=10,
                check=False,
            )
            assert done.returncode != 0, "ours is alive"
        assert not place.exists()


async def test_a_killed_vbackend_s_directory_is_taken_over(tmp_path: Path) -> None:
    place = tmp_path / "sw"
    with vbackend_run(tmp_path, f"vde:{place}") as run:
        with await FakeVdeClient.plug(place, place / ".04711-00000") as client:
            assert Path(os.fsdecode(client.switch)).is_socket()
            run.stop(signal.SIGKILL)
            await client.expect_eof()
        assert len(list(place.iterdir())) == 3
    with vbackend_run(tmp_path, f"vde:{place}") as run:
        assert [path.name for path in place.iterdir()] == ["ctl"]
        with await FakeVdeClient.plug(place, tmp_path / "a") as a:
            await a.send(frame(BROADCAST, mac(1)))
            await eventually(lambda: run.port("sw.1").rx.frames_in == 1, "it works")
    assert not place.exists()
