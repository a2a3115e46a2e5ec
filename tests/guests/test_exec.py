"""`vbackend exec`: a guest on passed descriptors, joined to another one, and its exit status."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.guests.wiring import LISTENING, boot, mac
from tests.support.guest import Guest, Guests
from tests.support.run import wait_until
from vbackend.qemu.accel import accelerator
from vbackend.qemu.agent import PORT_NAME, Agent
from vbackend.qemu.process import QEMU

pytestmark = [pytest.mark.guest, pytest.mark.timeout(180)]


async def test_a_guest_without_any_path(guests: Guests, tmp_path: Path) -> None:
    agent_path = tmp_path / "agent.sock"
    qemu = [QEMU, "-machine", "pc", "-accel", await asyncio.to_thread(accelerator)]
    qemu += [
        *guests.image.boot_arguments("inside"),
        "-serial",
        f"file:{tmp_path}/console.log",
        "-display",
        "none",
    ]
    qemu += ["-device", "virtio-serial-pci", "-device", f"virtserialport,chardev=agent,name={PORT_NAME}"]
    qemu += ["-chardev", f"socket,id=agent,path={agent_path},server=on,wait=off"]
    ports = [f"stream,mac={mac(1)}", LISTENING.port(tmp_path, "outside")]
    with _vbackend_exec(tmp_path / "exec.log", [*ports, "--", *qemu]) as child:
        wait_until(agent_path.exists, "QEMU runs")
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(agent_path))
        inside = Agent(sock)
        try:
            outside = await boot(guests, LISTENING, tmp_path, "outside", 2)
            await asyncio.wait_for(inside.wait_started(1), 90)
            await _network(inside, outside)
            await inside.start("poweroff -f")
            assert await asyncio.to_thread(child.wait, 20) == 0, (tmp_path / "exec.log").read_text()
        finally:
            await inside.close()


@contextmanager
def _vbackend_exec(log: Path, arguments: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    program = [sys.executable, "-c", "from vbackend.cli.main import main; main()", "exec", *arguments]
    with log.open("wb") as output, subprocess.Popen(program, stdout=output, stderr=output) as child:
        try:
            yield child
        finally:
            child.kill()


async def _network(inside: Agent, outside: Guest) -> None:
    name = f"$(basename $(dirname $(grep -lix {mac(1)} /sys/class/net/*/address)))"
    up = await inside.run(f"ip link set {name} up && ip addr add 10.5.0.1/24 dev {name}", timeout=30)
    assert up.status == 0, up.errors
    await outside.wait_ping("10.5.0.1")
    assert (await outside.ping("10.5.0.1", count=10)).received == 10
