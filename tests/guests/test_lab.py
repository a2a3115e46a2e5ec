"""Labs of real guests, driven by the command line: up, changed under their feet, their vbackend killed, down."""

import asyncio
import hashlib
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.lab_run import Labs, dumb_disk, lab_runtime
from tests.support.netns import Namespace, netns
from tests.support.run import VBACKEND, wait_until
from vbackend.control.client import call
from vbackend.errors import ConfigError
from vbackend.ports.unixsock import socket_address
from vbackend.qemu.qmp import Qmp

__all__ = ["netns"]

pytestmark = [pytest.mark.root, pytest.mark.guest]

README = Path(__file__).parents[2] / "README.md"

ROUTERS = """
[[cable]]
ends = ["r1:eth0", "r2:eth0"]
name = "core"
[vm.r1]
image = "small"
files = {{ "/etc/greeting" = "greeting" }}
start = ["ip addr add 10.0.0.1/24 dev eth0", "ip link set eth0 up"]
[vm.r2]
image = "small"
[vm.r2.nic.eth0]
addr = ["10.0.0.2/24"]
"""
PAIR = f"""{ROUTERS}
[switch.lan]
ports = ["tap:lab0,netns={{netns}},addr=10.1.0.254/24"]
"""
GROWN = f"""{ROUTERS}
[vm.r2.nic.eth1]
addr = ["10.1.0.2/24"]
[vm.r3]
image = "small"
[vm.r3.nic.lan]
addr = ["10.1.0.3/24"]
transport = "vhost-user"
[switch.lan]
ports = ["tap:lab0,netns={{netns}},addr=10.1.0.254/24", "r2:eth1", "r3:lan"]
"""
BROKEN = """
[vm.r4]
image = "small"
start = ["echo no luck >&2; exit 3"]
[[cable]]
ends = ["r4:eth0", "r1:eth1"]
"""


@pytest.fixture
def labs() -> Iterator[Labs]:
    with lab_runtime() as found:
        yield found


def write(folder: Path, text: str, netns: Namespace) -> str:
    """The lab file, always of the same name, so of the same lab."""
    (folder / "greeting").write_text("hello\n")
    path = folder / "life.toml"
    path.write_text(text.format(netns=netns.name))
    return str(path)


def ping(labs: Labs, vm: str, address: str) -> None:
    labs.guest(vm, f"ping -c 3 -W 5 -i 0.2 {address}")


def uptime(labs: Labs, vm: str) -> float:
    return float(labs.guest(vm, "cat /proc/uptime").split()[0])


async def reset(labs: Labs, lab: str, vm: str) -> None:
    """The reset button of a VM, while nobody else has its monitor."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(socket_address(str(labs.folder(lab).vm(vm).qmp)))
    async with await Qmp.connect(sock) as qmp:
        await qmp.system_reset()


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("image")
def test_the_life_of_a_lab(labs: Labs, netns: Namespace, tmp_path: Path) -> None:
    before = netns.state()
    labs.vbackend("up", write(tmp_path, PAIR, netns))
    ping(labs, "r1", "10.0.0.2")
    assert labs.guest("life/r1", "cat /etc/greeting") == "hello\n"
    assert {vm.name: vm.state for vm in labs.status("life").vms} == {"r1": "running", "r2": "running"}
    assert "r1" in labs.vbackend("ps").out

    grown = write(tmp_path, GROWN, netns)
    planned = labs.vbackend("plan", grown).out.splitlines()
    assert planned == [
        "+ lan: r2:eth1",
        "+ lan: r3:lan",
        "+ nic r2:eth1 (virtio-net-pci, stream)",
        "+ vm r3 (small: lan)",
    ]
    first = labs.pids("life")
    labs.vbackend("apply", grown)
    ping(labs, "r2", "10.1.0.254")
    ping(labs, "r3", "10.1.0.2")
    ping(labs, "r1", "10.0.0.2")
    assert "lan:" in labs.guest("r3", "ip -o link"), "the interface has the NIC's name"
    assert labs.pids("life").items() > first.items()

    labs.guest("r1", "echo kept >/tmp/mark")
    pids, up_since, r2_since = labs.pids("life"), uptime(labs, "r3"), uptime(labs, "r2")
    labs.kill_daemon("life")
    assert "dead" in labs.vbackend("ps").out
    asyncio.run(reset(labs, "life", "r2"))
    labs.vbackend("up", grown)
    assert labs.pids("life") == pids
    assert uptime(labs, "r3") > up_since
    assert uptime(labs, "r2") < r2_since, "r2 was reset, and is set up again"
    assert labs.guest("r1", "cat /tmp/mark") == "kept\n"
    ping(labs, "r2", "10.1.0.254")
    ping(labs, "r3", "10.1.0.2")
    ping(labs, "r1", "10.0.0.2")

    failed = labs.vbackend("apply", write(tmp_path, GROWN + BROKEN, netns), status=1)
    assert "step '+ vm r4 (small: eth0)' failed" in failed.err
    assert "status 3: no luck; what was done before is undone" in failed.err
    assert labs.pids("life") == pids
    assert labs.vbackend("plan", write(tmp_path, GROWN, netns)).out == ""
    ping(labs, "r1", "10.0.0.2")

    labs.vbackend("down", "life")
    assert not labs.left()
    assert netns.state() == before


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("image")
def test_one_guest_and_its_commands(labs: Labs, tmp_path: Path) -> None:
    path = tmp_path / "one.toml"
    path.write_text(
        f"""
[vm.r1]
image = "small"
[vm.dumb]
disk = "{dumb_disk(tmp_path / "disk.img")}"
memory = "16M"
[[cable]]
ends = ["r1:eth0", "dumb:eth0"]
name = "core"
"""
    )
    labs.vbackend("up", str(path))
    control = str(labs.folder("one").control)

    outcome = labs.vbackend("exec", "r1", "--", "sh", "-c", "echo out; echo err >&2; exit 7", status=7)
    assert (outcome.out, outcome.err) == ("out\n", "err\n")
    check_streams(labs, tmp_path)
    refused = labs.vbackend("exec", "dumb", "--", "true", status=2).err
    assert "VM 'dumb' has no agent to run commands" in refused
    assert "there is no VM 'r9'" in labs.vbackend("exec", "r9", "--", "true", status=2).err

    call(control, "vm-save", {"vm": "r1", "tag": "clean"})
    labs.guest("r1", "echo gone >/tmp/mark")
    call(control, "vm-restore", {"vm": "r1", "tag": "clean"})
    labs.guest("r1", "test ! -e /tmp/mark")
    call(control, "vm-save", {"vm": "r1", "tag": "clean"})
    with pytest.raises(ConfigError, match="VM 'r1' has no snapshot 'other'; there are clean"):
        call(control, "vm-restore", {"vm": "r1", "tag": "other"})

    labs.guest("r1", "ip link set eth0 up")
    call(control, "cable-set", {"cable": "core", "up": False})
    assert "NO-CARRIER" in labs.guest("r1", "ip -o link show eth0")
    assert not labs.status("one").links[0].up
    call(control, "cable-set", {"cable": "core", "up": True})
    assert "NO-CARRIER" not in labs.guest("r1", "ip -o link show eth0")

    typed = subprocess.Popen(
        [*VBACKEND, "console", "r1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=dict(labs.environ),
    )
    with typed:
        assert typed.stdin is not None
        typed.stdin.write(b"\recho $((6*7))\r")
        typed.stdin.flush()
        wait_until(lambda: "42" in labs.vbackend("logs", "r1").out, "the console's echo in the log")
        typed.stdin.write(b"\x1d")
        typed.stdin.flush()
        assert typed.wait(20) == 0
        assert typed.stdout is not None
        assert b"42" in typed.stdout.read()

    (pid,) = (vm.pid for vm in labs.status("one").vms if vm.name == "dumb")
    call(control, "vm-restart", {"vm": "dumb"})
    assert labs.pids("one")["dumb"] != pid
    call(control, "vm-stop", {"vm": "dumb"})
    assert labs.pids("one").keys() == {"r1"}
    call(control, "vm-start", {"vm": "dumb"})
    subprocess.run(["kill", "-9", str(labs.pids("one")["dumb"])], check=True)
    wait_until(lambda: labs.status("one").vms[1].state == "failed", "the VM is seen as failed")
    labs.vbackend("up", "one")
    wait_until(lambda: all(end.connected for end in labs.status("one").links[0].ends), "the cable is plugged")
    assert [vm.state for vm in labs.status("one").vms] == ["running", "running"]


def check_streams(labs: Labs, folder: Path) -> None:
    """Two commands at once, with 8 MiB and 1 MiB through each of their streams; and one whose user goes away."""
    blobs = {"one": os.urandom(8 << 20), "two": os.urandom(1 << 20)}
    script = "tee /tmp/$0 >&2; sha256sum </tmp/$0; exit 4"
    with ExitStack() as stack:
        children = []
        for name, blob in blobs.items():
            (folder / name).write_bytes(blob)
            given = stack.enter_context((folder / name).open("rb"))
            error = stack.enter_context((folder / f"{name}.back").open("wb"))
            child = subprocess.Popen(
                [*VBACKEND, "exec", "r1", "--", "sh", "-c", script, name],
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=error,
                env=dict(labs.environ),
            )
            children.append(stack.enter_context(child))
        for child, blob in zip(children, blobs.values(), strict=True):
            said = f"{hashlib.sha256(blob).hexdigest()}  -\n".encode()
            assert (child.communicate(timeout=100)[0], child.returncode) == (said, 4)
    for name, blob in blobs.items():
        assert (folder / f"{name}.back").read_bytes() == blob

    command = [*VBACKEND, "exec", "r1", "--", "echo there; cat; exec sleep 1000"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(labs.environ)
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == b"there\n"
        child.stdin.write(b"typed\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"typed\n", "it comes before the input ends"
        child.stdin.close()
        labs.guest("r1", "until pidof sleep; do usleep 50000; done")
        child.kill()
    labs.guest("r1", "while pidof sleep; do usleep 50000; done; rm /tmp/one /tmp/two")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("end", ["SIGTERM", "the terminal is closed"])
def test_a_foreground_lab_ends_with_its_command(labs: Labs, tmp_path: Path, end: str) -> None:
    path = tmp_path / "front.toml"
    path.write_text(f'[vm.a]\ndisk = "{dumb_disk(tmp_path / "disk.img")}"\nmemory = "16M"\n')
    ours, theirs = os.openpty()
    child = subprocess.Popen(
        ["setsid", "--ctty", "env", "--default-signal=HUP", *VBACKEND, "up", str(path), "--foreground"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=dict(labs.environ),
    )
    os.close(theirs)
    with child, os.fdopen(ours, "rb", buffering=0) as terminal:
        shown = b""
        while b"done: + vm a" not in shown:
            shown += terminal.read(4096)
        assert labs.pids("front").keys() == {"a"}
        child.terminate() if end == "SIGTERM" else terminal.close()
        assert child.wait(20) == 0
    assert not labs.left()


@pytest.mark.usefixtures("image")
def test_the_lab_of_the_readme(labs: Labs, netns: Namespace, tmp_path: Path) -> None:
    text = README.read_text().split("```toml\n# two-routers.toml\n")[1].split("```")[0]
    path = tmp_path / "two-routers.toml"
    path.write_text(text.replace("tap:lab0,", f"tap:lab0,netns={netns.name},"))
    labs.vbackend("up", str(path))
    labs.guest("r1", "ping -c 1 -W 5 10.0.0.2 || ping -c 9 -W 1 10.0.0.2")  # one in a hundred is lost
    assert labs.guest("r1", "cat /proc/sys/net/ipv4/ip_forward") == "1\n"
    labs.vbackend("down", "two-routers")
    assert not labs.left()


@pytest.mark.usefixtures("image")
def test_a_lab_that_cannot_start_leaves_nothing(labs: Labs, tmp_path: Path) -> None:
    path = tmp_path / "no.toml"
    path.write_text(f'[vm.a]\ndisk = "{dumb_disk(tmp_path / "disk.img")}"\nargs = ["-no-such-option"]\n')
    assert "invalid option" in labs.vbackend("up", str(path), status=1).err
    assert not labs.left()


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("image")
def test_services_captures_and_bad_lines(labs: Labs, tmp_path: Path) -> None:
    path, capture = tmp_path / "served.toml", tmp_path / "served.pcapng"
    path.write_text(
        f"""
[vm.h1]
image = "small"
start = ["ip link set eth0 up; udhcpc -i eth0 -n -q -t 10"]
[vm.h2]
image = "small"
[switch.lan]
ports = ["h1:eth0", "h2:eth0"]
addr = ["10.9.0.1/24"]
dhcp = {{ range = "10.9.0.100-10.9.0.150", hosts = {{ h1 = "10.9.0.50" }} }}
dns = true
[switch.east]
ports = ["h1:eth1"]
[switch.west]
ports = ["h2:eth1"]
[[cable]]
name = "core"
ends = ["east:core", "west:core"]
delay = "20ms"
seed = 7
[[capture]]
file = "{capture}"
"""
    )
    labs.vbackend("up", str(path))
    assert "10.9.0.50" in labs.guest("h1", "ip -o addr show eth0")
    assert "Address: 10.9.0.50" in labs.guest("h1", "nslookup h1.lab 10.9.0.1")
    (lease,) = labs.status("served").leases
    assert (lease.switch, lease.address) == ("lan", "10.9.0.50")
    labs.guest("h1", "ip addr add 10.8.0.1/24 dev eth1; ip link set eth1 up")
    labs.guest("h2", "ip addr add 10.8.0.2/24 dev eth1; ip link set eth1 up; ping -c 1 -W 5 10.8.0.1")
    labs.kill_daemon("served")
    labs.vbackend("up", "served")
    assert [lease.address for lease in labs.status("served").leases] == ["10.9.0.50"]
    labs.guest("h2", "ping -c 1 -W 5 10.8.0.1")
    call(str(labs.folder("served").control), "cable-set", {"cable": "core", "forward": {"loss": "100%"}})
    labs.guest("h2", "ping -c 1 -W 1 10.8.0.1", status=1)
    labs.vbackend("down", "served")
    told = subprocess.run(
        ["tshark", "-n", "-r", str(capture), "-Y", "icmp", "-T", "fields", "-e", "frame.comment"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "delayed 20" in told
    assert "lost: impairment loss" in told


@pytest.mark.timeout(120)
def test_without_root(tmp_path: Path) -> None:
    disk = dumb_disk(tmp_path / "disk.img")
    path = tmp_path / "free.toml"
    path.write_text(
        f"""
[vm.a]
disk = "{disk}"
memory = "16M"
[switch.lan]
ports = ["a:eth0", "tap:free0,addr=10.9.0.253/24"]
nat = {{ addr = ["10.9.0.254/24"] }}
"""
    )
    path.chmod(0o644)
    with lab_runtime(uid=65_534) as labs:
        for folder in (tmp_path, *tmp_path.parents[:2]):
            folder.chmod(0o755)
        labs.vbackend("up", str(path))
        pids = labs.pids("free")
        devices = labs.inside("free", "ip", "-o", "link")
        assert "free0" in devices
        labs.kill_daemon("free")
        labs.vbackend("up", "free")
        assert labs.pids("free") == pids
        assert "free0" in labs.inside("free", "ip", "-o", "link")
        labs.vbackend("down", "free")
        assert not labs.left()
