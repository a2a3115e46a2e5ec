"""`vbackend exec`: a guest on passed descriptors, joined to another one or to the host, and its exit status."""

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from tests.guests.wiring import LISTENING, boot, mac
from tests.support.guest import Guests
from tests.support.netns import namespace
from tests.support.run import VBACKEND, wait_until
from vbackend.qemu.accel import accelerator
from vbackend.qemu.agent import PORT_NAME, Agent
from vbackend.qemu.version import QEMU

pytestmark = [pytest.mark.guest, pytest.mark.timeout(180)]


async def test_a_guest_without_any_path(guests: Guests, tmp_path: Path) -> None:
    ports = [f"stream,mac={mac(1)}", LISTENING.port(tmp_path, "outside")]
    async with _guest_of_exec(guests, tmp_path, ports) as inside:
        outside = await boot(guests, LISTENING, tmp_path, "outside", 2)
        await _configure(inside)
        await outside.wait_ping("10.5.0.1")
        assert (await outside.ping("10.5.0.1", count=10)).received == 10


@pytest.mark.root
async def test_vhost_user_and_a_tap(guests: Guests, tmp_path: Path) -> None:
    """The guest's memory is shared without a word about it."""
    with namespace() as host:
        ports = [f"vhost-user,mac={mac(1)}", f"tap:vb0,netns={host.name},addr=10.5.0.254/24"]
        async with _guest_of_exec(guests, tmp_path, ports) as inside:
            await _configure(inside)
            pings = ("ping", "-n", "-c", "10", "-i", "0.1", "-W", "3", "10.5.0.1")
            assert "10 received" in await asyncio.to_thread(host.run, *pings)


@asynccontextmanager
async def _guest_of_exec(guests: Guests, folder: Path, ports: Sequence[str]) -> AsyncIterator[Agent]:
    """The agent of a guest that `vbackend exec` starts; at the end the guest goes, and its status is exec's."""
    agent_path = folder / "agent.sock"
    qemu = [QEMU, "-machine", "pc", "-accel", await asyncio.to_thread(accelerator)]
    qemu += [*guests.image.boot_arguments("inside"), "-serial", f"file:{folder}/console.log"]
    qemu += ["-display", "none", "-device", "virtio-serial-pci"]
    qemu += ["-device", f"virtserialport,chardev=agent,name={PORT_NAME}"]
    qemu += ["-chardev", f"socket,id=agent,path={agent_path},server=on,wait=off"]
    with _vbackend_exec(folder / "exec.log", [*ports, "--", *qemu]) as child:
        sock = socket.socket(socket.AF_UNIX)
        wait_until(lambda: sock.connect_ex(str(agent_path)) == 0, "QEMU listens")
        inside = Agent(sock)
        try:
            await asyncio.wait_for(inside.wait_started(1), 90)
            yield inside
            await inside.start("poweroff -f")
            assert await asyncio.to_thread(child.wait, 20) == 0, (folder / "exec.log").read_text()
        finally:
            await inside.close()


@contextmanager
def _vbackend_exec(log: Path, arguments: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    program = [*VBACKEND, "exec", *arguments]
    with log.open("wb") as output, subprocess.Popen(program, stdout=output, stderr=output) as child:
        try:
            yield child
        finally:
            child.kill()


async def _configure(inside: Agent) -> None:
    name = f"$(basename $(dirname $(grep -lix {mac(1)} /sys/class/net/*/address)))"
    up = await inside.run(f"ip link set {name} up && ip addr add 10.5.0.1/24 dev {name}", timeout=30)
    assert up.status == 0, up.errors
