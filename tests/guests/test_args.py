"""`vbackend args`: what it prints, given to the QEMU that is installed, makes a guest's card the PORT's other end.

The traffic is what the card's boot ROM sends when it looks for a DHCP server.
"""

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guests.wiring import mac
from tests.support.netns import Namespace, namespace
from tests.support.run import VBACKEND, vbackend_run
from vbackend.qemu.version import QEMU

pytestmark = [pytest.mark.root, pytest.mark.guest, pytest.mark.timeout(120)]

OTHER = "stream:unix:other.sock"
PORTS = [
    "stream:unix:a,,b.sock",
    "stream:unix:@vbackend-test-args",
    "stream:unix:a.sock,multi",
    "stream:tcp:127.0.0.1:7001",
    "stream:tcp:[::1]:7001,dial",
    "vhost-user:a,,b.sock",
    "vhost-user:@vbackend-test-vhost,dial,queues=2",
    "dgram:unix:ours:theirs",
    "dgram:udp:127.0.0.1:7001:127.0.0.1:7002",
    "dgram:mcast:230.0.0.1:7001,local=127.0.0.1",
    "socket:listen:127.0.0.1:7001",
    "socket:connect:127.0.0.1:7001",
    "socket:udp:127.0.0.1:7001:127.0.0.1:7002",
    "socket:mcast:230.0.0.1:7001,local=127.0.0.1",
]


@pytest.fixture
def place() -> Iterator[Namespace]:
    with namespace("vb-args") as made:
        made.ip("link", "set", "lo", "up")
        yield made


def start_guest(place: Namespace, folder: Path, port: str, address: str) -> subprocess.Popen[bytes]:
    told = subprocess.run(
        [*VBACKEND, "args", port, "--mac", address, "--memory", "64"],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )
    command = [QEMU, "-machine", "pc", "-accel", "tcg", "-m", "64", "-nodefaults", "-display", "none"]
    return subprocess.Popen(place.command(*command, *shlex.split(told.stdout)), cwd=folder)


@pytest.mark.parametrize("port", PORTS)
def test_frames_pass_both_ways(
    port: str, place: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with vbackend_run(tmp_path, f"{port},name=a", OTHER, prefix=place.command()) as run:
        guests = []
        try:
            for number, each in enumerate((port, OTHER), 1):
                guests.append(start_guest(place, tmp_path, each, mac(number)))
            name = "a.1" if "multi" in port else "a"

            def both_ways() -> bool:
                found = run.snapshot()
                learned = {entry.mac: entry.port for entry in found.segments[0].fdb}
                received = {each.name: each.tx.frames_out for each in found.ports}
                return learned.get(mac(1)) == name and received[name] > 0 and received["other"] > 0

            run.wait_for(both_ways, "frames both ways")
        finally:
            for guest in guests:
                guest.kill()
                guest.wait()
