"""A process that holds devices is killed; the next start leaves the namespace as it was before."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.netns import Namespace, differences, netns
from vbackend.host.journal import Journal
from vbackend.host.tap import HostDevices
from vbackend.ports.parse import parse_port
from vbackend.ports.spec import TapSpec, TunSpec

__all__ = ["netns"]

pytestmark = pytest.mark.root

HOLDER = """
import asyncio, sys
from pathlib import Path
from vbackend.host.journal import Journal
from vbackend.host.tap import HostDevices
from vbackend.ports.parse import parse_port
from vbackend.ports.spec import TapSpec

async def main(directory, *texts):
    devices = HostDevices(Journal(Path(directory)))
    for text in texts:
        spec = parse_port(text)
        await (devices.open_tap(spec) if isinstance(spec, TapSpec) else devices.open_tun(spec))
    print("held", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await devices.close_all()

asyncio.run(main(*sys.argv[1:]))
"""

EVERYTHING = (
    "tap:new0,bridge=made0,addr=10.0.0.1/24,addr=fd00::1/64",
    "tap:old0,mtu=1400,mac=52:54:00:00:00:01,bridge=old-br,addr=10.1.0.1/24",
    "tun:tun0,addr=10.2.0.1,peer=10.2.0.2",
    "tun:old1,addr=10.3.0.1,peer=10.3.0.2,addr=fd03::1,peer=fd03::2",
)


@contextmanager
def holder(directory: Path, netns: Namespace, *texts: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has the devices open, until it is killed or its standard input ends."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(directory), *(f"{text},netns={netns.name}" for text in texts)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    with child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "held\n"
            yield child
        finally:
            child.kill()


def premade(netns: Namespace) -> None:
    netns.ip("link", "add", "old-br", "address", "52:54:00:00:00:0b", "type", "bridge")
    netns.ip("tuntap", "add", "dev", "old0", "mode", "tap")
    netns.ip("tuntap", "add", "dev", "old1", "mode", "tun")


async def test_the_next_start_undoes_what_a_killed_one_made(netns: Namespace, tmp_path: Path) -> None:
    premade(netns)
    before = netns.state()
    with holder(tmp_path, netns, *EVERYTHING) as child:
        assert {"new0", "made0", "tun0"} <= netns.links().keys()
        assert netns.addresses("old1") == {"10.3.0.1 peer 10.3.0.2/32", "fd03::1 peer fd03::2/128"}
        child.kill()
        child.wait()
        assert "made0" in netns.links(), "a bridge outlives who made it"
        devices = HostDevices(Journal(tmp_path))
        spec = parse_port(f"tap:next0,netns={netns.name}")
        assert isinstance(spec, TapSpec)
        await devices.close(await devices.open_tap(spec))
    assert not differences(before, netns.state())
    await devices.close_all()
    assert not list(tmp_path.iterdir())


async def test_a_living_process_keeps_its_devices(netns: Namespace, tmp_path: Path) -> None:
    premade(netns)
    before = netns.state()
    with holder(tmp_path, netns, *EVERYTHING) as child:
        held = netns.links().keys()
        await HostDevices(Journal(tmp_path)).sweep()
        assert netns.links().keys() == held
        assert (netns.links()["old0"]["mtu"], netns.links()["old0"]["master"]) == (1400, "old-br")
        assert netns.addresses("old1") == {"10.3.0.1 peer 10.3.0.2/32", "fd03::1 peer fd03::2/128"}
        child.communicate(timeout=20)
        assert child.returncode == 0
    assert not differences(before, netns.state())
    assert not list(tmp_path.iterdir())


async def test_the_survivor_takes_away_the_bridge_both_used(netns: Namespace, tmp_path: Path) -> None:
    """Who made it is killed first; who joined it leaves last."""
    before = netns.state()
    spec = parse_port(f"tap:tap1,bridge=br0,netns={netns.name}")
    assert isinstance(spec, TapSpec)
    devices = HostDevices(Journal(tmp_path))
    with holder(tmp_path, netns, "tap:tap0,bridge=br0") as child:
        device = await devices.open_tap(spec)
        assert netns.links()["tap1"]["master"] == "br0"
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        await HostDevices(Journal(tmp_path)).sweep()
        assert "br0" in netns.links()
        await devices.close(device)
        await devices.close_all()
    assert not differences(before, netns.state())


@pytest.mark.parametrize("delay_ms", range(0, 60, 10))
def test_killed_at_any_moment(netns: Namespace, tmp_path: Path, delay_ms: int) -> None:
    """Wherever the kill falls between the journal's line and the change, nothing is left."""
    premade(netns)
    before = netns.state()
    texts = [f"{text},netns={netns.name}" for text in EVERYTHING]
    script = HOLDER.replace(
        "    for text", '    print("ready", flush=True); sys.stdin.readline()\n    for text', 1
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path), *texts],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdin is not None
            assert child.stdout.readline() == "ready\n"
            child.stdin.write("go\n")
            child.stdin.flush()
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(delay_ms / 1000)
        finally:
            child.kill()
    asyncio.run(HostDevices(Journal(tmp_path)).sweep())
    assert not differences(before, netns.state())
    assert not list(tmp_path.glob("*.journal"))


def test_specs_of_this_file_are_devices() -> None:
    assert all(isinstance(parse_port(text), TapSpec | TunSpec) for text in EVERYTHING)
