"""A lab with a NAT, of root's or of an ordinary user's, and the namespaces around it.

    client ── vbackend ══ stream socket ══ vbackend with NAT ── host ── server
    10.0.0.1                               10.0.0.254           10.9.0.1, default route  10.9.0.2, 203.0.113.9

Each name is a network namespace, and for an ordinary user the lab is in one more, of its own.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.netns import Namespace, namespace
from tests.support.privileges import as_user, seeing_open_tun
from tests.support.run import vbackend_run, wait_until
from tests.support.stacks import socket_in

__all__ = [
    "FAR",
    "GATEWAY",
    "GUEST",
    "HOST",
    "USER",
    "Lab",
    "Place",
    "asked_by_udp",
    "guest",
    "lab",
    "place",
    "seen_by",
    "started",
    "switches",
]

USER = 4242
FAR = {4: "203.0.113.9", 6: "2001:db8:9::9"}
GUEST = {4: "10.0.0.1", 6: "fd00:1::1"}
GATEWAY = {4: "10.0.0.254/24", 6: "fd00:1::ff/64"}
HOST = {4: "10.9.0.1", 6: "fd00:9::1"}

LAB = """
import asyncio, json, os, sys
from pathlib import Path
from vbackend.backend import Backend
from vbackend.errors import VbackendError
from vbackend.host import nat
from vbackend.host.forwarding import read_setting
from vbackend.host.journal import Journal
from vbackend.host.rootless import own_namespace
from vbackend.host.ruleset import gateway_port
from vbackend.host.tap import HostDevices
from vbackend.host.uplink import Uplink
from vbackend.lab.model import Nat
from vbackend.ports.parse import parse_port

async def main(told, outside):
    config = Nat.model_validate(told["nat"]).config
    devices = HostDevices(Journal(Path(told["folder"]) / "journal"))
    ports = [gateway_port(told["lab"], "lan", config), f"stream:unix:{told['folder']}/{told['socket']}"]
    async with Backend(name="lab", host=devices) as backend:
        await backend.start([parse_port(port) for port in ports])
        uplink = None
        if outside is not None:
            more = {"forwards": config.forwards, "host_loopback": told["host_loopback"]}
            uplink = Uplink(outside, Path(told["folder"]), **more)
            await uplink.start()
        async with nat.Nat(devices, told["lab"], "lan", config, private=outside is not None) as way:
            print(json.dumps({"pid": os.getpid(), "tap": way.ifname, "user": os.geteuid()}), flush=True)
            while await asyncio.to_thread(sys.stdin.readline) == "trouble\\n":
                print(json.dumps(uplink.trouble), flush=True)
        if uplink is not None:
            await uplink.stop()
    await devices.close_all()

told = json.loads(sys.argv[1])
if told["hidden"]:
    nat.read_setting = lambda path: None if path.endswith(told["hidden"]) else read_setting(path)
try:
    outside = own_namespace(told["inhabitant"])
    asyncio.run(main(told, outside))
    if outside is not None:
        outside.close()
except VbackendError as error:
    print(type(error).__name__, error, flush=True)
"""


@dataclass(frozen=True, slots=True)
class Place:
    """The namespaces around a lab."""

    client: Namespace
    host: Namespace
    server: Namespace
    folder: Path  # of the user's own


@pytest.fixture
def place() -> Iterator[Place]:
    """Not in pytest's folder: every other pytest that starts makes that root's only."""
    with (
        tempfile.TemporaryDirectory(prefix="vbackend-nat-") as directory,
        namespace() as client,
        namespace() as host,
        namespace() as server,
    ):
        Path(directory).chmod(0o755)
        folder = Path(directory) / "lab"
        folder.mkdir()
        os.chown(folder, USER, USER)
        host.ip("link", "add", "up0", "type", "veth", "peer", "name", "down0", "netns", server.name)
        for netns, device, last in ((host, "up0", 1), (server, "down0", 2)):
            netns.ip("address", "add", f"10.9.0.{last}/24", "dev", device)
            netns.ip("link", "set", device, "addrgenmode", "none", "up")
            for prefix in ("fd00:9", "fe80"):  # usable at once: nothing about them changes later
                netns.ip("address", "add", f"{prefix}::{last}/64", "dev", device, "nodad")
        for version, address in FAR.items():
            server.ip("address", "add", address, "dev", "lo")
            via = "10.9.0.2" if version == 4 else "fd00:9::2"
            host.ip(f"-{version}", "route", "add", "default", "via", via)
        # The kernel takes its time to say that there is a carrier, in flags of the device and its routes.
        wait_until(lambda: host.links()["up0"]["operstate"] == "UP", "a carrier")
        yield Place(client, host, server, folder)


@dataclass(frozen=True, slots=True)
class Lab:
    child: subprocess.Popen[str]
    pid: int
    tap: str
    user: int

    def inside(self, *command: str) -> str:
        """A command in the namespaces of the lab."""
        enter = ["nsenter", "-t", str(self.pid), "-U", "-n", "--preserve-credentials"]
        return subprocess.run([*enter, *command], capture_output=True, text=True, check=True).stdout

    def trouble(self) -> str | None:
        """What the uplink says of itself."""
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write("trouble\n")
        self.child.stdin.flush()
        answer = json.loads(self.child.stdout.readline())
        assert answer is None or isinstance(answer, str)
        return answer

    def stop(self, said: str = "") -> None:
        """In order. AssertionError with its log, unless that has `said`, or is empty where `said` is."""
        out, log = self.child.communicate("\n", timeout=30)
        assert (out, self.child.returncode) == ("", 0), log
        assert said in log if said else not log, log


def started(
    place: Place, *, rootless: bool, before: Sequence[str] = (), **told: Any
) -> subprocess.Popen[str]:
    """A lab that comes up; `told`: its `nat`, and what differs from the ordinary.

    `before`: a command of root's that becomes the one behind it.
    """
    told.setdefault("nat", {"addr": list(GATEWAY.values())})
    told = {
        "folder": str(place.folder),
        "lab": "lab",
        "host_loopback": False,
        "inhabitant": None,
        "hidden": "",
        **told,
    }
    told["socket"] = "lan.sock" if told["lab"] == "lab" else f"{told['lab']}.sock"
    user = (*seeing_open_tun(place.folder / "tun"), *as_user(USER)) if rootless else ()
    return subprocess.Popen(
        place.host.command(*before, *user, sys.executable, "-c", LAB, json.dumps(told)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


@contextmanager
def lab(place: Place, *, rootless: bool, before: Sequence[str] = (), **told: Any) -> Iterator[Lab]:
    """A running lab; killed at the end, unless it was stopped."""
    with started(place, rootless=rootless, before=before, **told) as child:
        try:
            assert child.stdout is not None
            first = child.stdout.readline()
            assert first.startswith("{"), first + "".join(child.communicate("\n"))
            yield Lab(child, **json.loads(first))
        finally:
            child.kill()


@contextmanager
def guest(place: Place) -> Iterator[None]:
    """The client, on the lab's switch as a QEMU would be: by the socket, and what it does not take at once waits."""
    patient = "queue=65536,queue-bytes=536870912"
    addresses = f"addr={GUEST[4]}/24,addr={GUEST[6]}/64"
    ports = (
        f"stream:unix:{place.folder}/lan.sock,dial,name=lan,{patient}",
        f"tap:eth0,netns={place.client.name},{addresses}",
    )
    with vbackend_run(place.folder.parent, *ports, name="client") as run:
        run.wait_connected("lan")
        for version, address in GATEWAY.items():
            place.client.ip(f"-{version}", "route", "add", "default", "via", address.split("/")[0])
        yield


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def seen_by(
    server: Namespace,
    client: Namespace,
    address: str,
    *,
    at: str | None = None,
    port: int = 8080,
    to: int = 8080,
) -> str:
    """Connect from one to `address`, both ways one word; returns the client's address as the server sees it.

    `at`: where the server listens, if not at `address`.
    """
    with (
        socket_in(server, family(at or address), socket.SOCK_STREAM) as listener,
        socket_in(client, family(address), socket.SOCK_STREAM) as source,
    ):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((at or address, to))
        listener.listen(1)
        source.connect((address, port))
        accepted, peer = listener.accept()
        with accepted:
            accepted.settimeout(20)
            source.sendall(b"there")
            assert accepted.recv(5, socket.MSG_WAITALL) == b"there"
            accepted.sendall(b"back")
            assert source.recv(4, socket.MSG_WAITALL) == b"back"
        return str(peer[0])


def asked_by_udp(
    server: Namespace, client: Namespace, address: str, *, at: str, port: int, to: int | None = None
) -> bool:
    """Whether a datagram to `address` arrives `at` the server, and an answer comes back from where it was asked."""
    with (
        socket_in(server, family(at), socket.SOCK_DGRAM) as listener,
        socket_in(client, family(address), socket.SOCK_DGRAM) as source,
    ):
        listener.bind((at, to or port))
        source.connect((address, port))
        source.send(b"there")
        word, peer = listener.recvfrom(10)
        listener.sendto(b"back", peer)
        return (word, source.recv(10)) == (b"there", b"back")


def switches(netns: Namespace) -> dict[str, str]:
    """All of the namespace's switches that a NAT may touch, of the devices that are there for good."""
    paths = "/proc/sys/net/ipv[46]/conf/*/"
    words = " ".join(paths + name for name in ("*forwarding", "accept_ra", "route_localnet"))
    lines = netns.run("sh", "-c", f"grep -s '' {words} /proc/sys/net/ipv4/ip_forward").splitlines()
    return dict(line.split(":") for line in lines if "/vb" not in line)
