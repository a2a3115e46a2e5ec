"""`exec`: sorting PORTs, QEMU's arguments, and a real child on real descriptors."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.unit.control.fakes import said
from vbackend.control.launch import exit_status, nic_arguments, plan_launch, run_guest, stable_mac
from vbackend.errors import ConfigError, HostError
from vbackend.ports.spec import DgramUnixSpec, StreamSpec, VhostUserSpec
from vbackend.qemu.version import QemuVersion

COMMAND = ("qemu-system-x86_64", "-m", "64")


@pytest.mark.parametrize(
    ("ports", "nics", "joined", "segment"),
    [
        ([], ["stream"], [], "switch"),
        (["stream:unix:/tmp/a"], ["stream"], ["stream:unix:/tmp/a"], "cable"),
        (["dgram", "tap:vb0"], ["dgram"], ["tap:vb0"], "cable"),
        (["stream", "stream"], ["stream", "stream"], [], "cable"),
        (["tap:x", "stream,name=n", "dgram,mac=52:54:00:00:00:07"], ["stream", "dgram"], ["tap:x"], "switch"),
        (["vhost-user,queues=2", "vhost-user:/tmp/a"], ["vhost-user"], ["vhost-user:/tmp/a"], "cable"),
        (["stream", "stream:unix:/tmp/a,multi"], ["stream"], ["stream:unix:/tmp/a"], "switch"),
    ],
)
def test_plan(ports: list[str], nics: list[str], joined: list[str], segment: str) -> None:
    launch = plan_launch(ports, COMMAND)
    kinds = {StreamSpec: "stream", DgramUnixSpec: "dgram", VhostUserSpec: "vhost-user"}
    assert [kinds[type(nic.spec)] for nic in launch.nics] == nics
    assert [spec.text for spec in launch.joined] == joined
    assert launch.segment == segment
    assert launch.command == COMMAND


def test_options_of_nics() -> None:
    named, addressed = plan_launch(["stream,name=n,queue=9", "dgram,mac=02:00:00:00:00:07"], COMMAND).nics
    options = named.spec.options
    assert (options.name, options.queue, options.mac) == ("n", 9, None)
    assert named.mac == stable_mac(COMMAND, 0)
    assert (addressed.mac, addressed.spec.options.mac) == ("02:00:00:00:00:07", bytes.fromhex("020000000007"))


@pytest.mark.parametrize(
    ("ports", "text"),
    [
        (["stream,dial"], "port 'stream,dial': a NIC of this guest cannot dial or be multi"),
        (["stream,multi"], "port 'stream,multi': a NIC of this guest"),
        (["vhost-user,dial"], "port 'vhost-user,dial': a NIC of this guest cannot dial"),
        (["vhost-user,queues=17"], "port 'vhost-user,queues=17': queues is '17'"),
        (["stream,mac=zz"], "port 'stream,mac=zz': "),
        (["dgram,x=1"], "port 'dgram,x=1': 'x' is no option of dgram ports"),
        (["tpa:x"], "port 'tpa:x': "),
    ],
)
def test_bad_ports(ports: list[str], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_launch(ports, COMMAND)
    assert str(caught.value).startswith(text)


def test_addresses_are_stable_and_differ() -> None:
    first = stable_mac(COMMAND, 0)
    assert first == stable_mac(list(COMMAND), 0)
    assert first.startswith("52:54:00:")
    assert len({first, stable_mac(COMMAND, 1), stable_mac((*COMMAND, "-snapshot"), 0)}) == 3


@pytest.mark.parametrize(
    ("kind", "netdev"),
    [
        ("stream", "stream,id=vbackend1,addr.type=fd,addr.str=9"),
        ("dgram", "dgram,id=vbackend1,local.type=fd,local.str=9"),
    ],
)
def test_arguments(kind: str, netdev: str) -> None:
    (nic,) = plan_launch([f"{kind},mac=52:54:00:00:00:07"], COMMAND).nics
    device = "virtio-net-pci,netdev=vbackend1,mac=52:54:00:00:00:07"
    assert nic_arguments(nic, 1, 9) == ["-netdev", netdev, "-device", device]


@pytest.mark.parametrize(
    ("version", "kvm", "vectors"),
    [((7, 2), False, "vectors=0"), ((7, 2), True, "vectors=6"), ((9, 1), False, "vectors=0")],
)
def test_arguments_of_vhost_user(version: tuple[int, int], kvm: bool, vectors: str) -> None:
    (nic,) = plan_launch(["vhost-user,queues=2,mac=52:54:00:00:00:07"], COMMAND).nics
    chardev, netdev, card = nic_arguments(nic, 1, version=QemuVersion(*version), kvm=kvm)[1::2]
    assert chardev == "socket,id=vbackend1-socket,path=nic,abstract=on,reconnect=1"
    assert netdev == "vhost-user,id=vbackend1,chardev=vbackend1-socket,queues=2"
    assert card == f"virtio-net-pci,netdev=vbackend1,mac=52:54:00:00:00:07,mq=on,{vectors},packed=on"


@pytest.mark.parametrize(
    ("ports", "command", "size"),
    [
        (["stream"], "-m 64", None),
        (["stream", "vhost-user"], "-m 64", "64M"),
        (["vhost-user", "vhost-user"], "", "128M"),
        (["vhost-user:/tmp/a"], "-m 64", None),
        (["vhost-user"], "-M memory-backend=r -object memory-backend-memfd,id=r,size=64M", None),
    ],
)
def test_memory_is_shared_when_it_has_to(ports: list[str], command: str, size: str | None) -> None:
    arguments = plan_launch(ports, ["qemu", *command.split()]).arguments
    assert (f"size={size}" in " ".join(arguments)) if size else arguments == ()


def test_memory_of_unknown_size() -> None:
    with pytest.raises(ConfigError, match="'lots' is no size of a guest's memory"):
        plan_launch(["vhost-user"], ["qemu", "-m", "lots"])


@pytest.mark.parametrize(("returncode", "status"), [(0, 0), (3, 3), (-9, 137), (-15, 143)])
def test_exit_status(returncode: int, status: int) -> None:
    assert exit_status(returncode) == status


GUEST = """
import re, socket, struct, sys
fds = [int(n) for n in re.findall(r"str=(\\d+)", " ".join(sys.argv))]
a, b = (socket.socket(fileno=fd) for fd in fds)
body = bytes.fromhex("ffffffffffff52540000000188b5") + b"hello".ljust(46, b"\\0")
a.settimeout(30), b.settimeout(30)
framed = lambda s, d: struct.pack(">I", len(d)) + d if s.type == socket.SOCK_STREAM else d
a.sendall(framed(a, body))
got = b""
while len(got) < len(framed(b, body)):
    got += b.recv(1000)
sys.exit(7 if got == framed(b, body) else 1)
"""


@pytest.mark.parametrize("ports", [["stream", "stream"], ["dgram", "stream"], ["dgram", "dgram"]])
async def test_two_cards_of_one_guest_are_joined(ports: list[str]) -> None:
    launch = plan_launch(ports, [sys.executable, "-c", GUEST])
    status = await run_guest(launch, name="x", control=None, queue_frames=256, environ=os.environ)
    assert status == 7


VHOST_GUEST = """
import pathlib, re, socket, stat, sys
path = pathlib.Path(re.search("path=([^,]+)", " ".join(sys.argv))[1])
assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
s = socket.socket(socket.AF_UNIX)
s.connect(str(path))
s.sendall(bytes.fromhex("010000000100000000000000"))
sys.exit(7 if s.recv(100)[:8] == bytes.fromhex("0100000005000000") else 1)
"""


async def test_a_card_with_shared_memory() -> None:
    launch = plan_launch(["vhost-user"], [sys.executable, "-c", VHOST_GUEST])
    status = await run_guest(launch, name="x", control=None, queue_frames=256, environ=os.environ)
    assert status == 7


async def test_a_killed_guest(tmp_path: Path) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    launch = plan_launch([f"stream:unix:{tmp_path}/a"], [sys.executable, "-c", code])
    control = str(tmp_path / "control")
    status = await run_guest(launch, name="x", control=control, queue_frames=256, environ=os.environ)
    assert status == 137
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("in_terminal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_signals_reach_the_guest(tmp_path: Path, number: signal.Signals) -> None:
    os.mkfifo(tmp_path / "ready")
    ready = os.open(tmp_path / "ready", os.O_RDONLY | os.O_NONBLOCK)
    code = (
        "import pathlib, signal, sys\n"
        "for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(s, lambda n, _: sys.exit(n))\n"
        f"pathlib.Path({str(tmp_path / 'ready')!r}).write_bytes(b'!')\nsignal.pause()"
    )
    launch = plan_launch([], [sys.executable, "-c", code])
    life = asyncio.create_task(
        run_guest(launch, name="x", control=None, queue_frames=256, environ=os.environ)
    )
    with os.fdopen(ready):
        assert await said(ready) == b"!"
    os.kill(os.getpid(), number)
    assert await asyncio.wait_for(life, 30) == number


async def test_no_such_program() -> None:
    launch = plan_launch([], ["no-such-qemu"])
    with pytest.raises(HostError, match="'no-such-qemu' is no program that can be run; install it"):
        await run_guest(launch, name="x", control=None, queue_frames=256, environ=os.environ)
