"""A lab whose daemon or QEMUs are killed at any moment: the next `up` heals it, and `down` leaves nothing.

The VMs have no operating system, so that many rounds take little time; they cannot be hot-unplugged, and whether guests
live on is seen in test_lab.py.
"""

import os
import random
import select
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.lab_run import Labs, dumb_disk, lab_runtime
from tests.support.netns import Namespace, netns
from tests.support.run import wait_until
from vbackend.errors import VbackendError
from vbackend.lab.client import Named, apply_lab, down, ensure_daemon
from vbackend.lab.load import parse_lab
from vbackend.lab.model import Lab

__all__ = ["netns"]

pytestmark = [pytest.mark.root, pytest.mark.guest]

ROUNDS = 20
# The tap is apart: a QEMU that has a frame for a card without driver sees no end of its connection (net/stream.c), so
# it accepts no other one before its guest has booted, which these never do.
LAB = """
name = "shaky"
[vm.a]
disk = "{disk}"
memory = "16M"
[vm.b]
disk = "{disk}"
memory = "16M"
[switch.lan]
ports = ["a:eth0", "b:eth0"]
[switch.host]
ports = ["tap:shaky0,netns={netns}"]
"""
MORE = """
[vm.c]
disk = "{disk}"
memory = "16M"
[vm.c.nic.eth0]
transport = "vhost-user"
[vm.d]
disk = "{disk}"
memory = "16M"
[[cable]]
ends = ["d:eth0", "c:eth0"]
name = "far"
"""


@pytest.fixture
def labs() -> Iterator[Labs]:
    with lab_runtime() as found:
        yield found


def try_up(labs: Labs, lab: Lab) -> None:
    """`vbackend up`, which may fail: something of it is being killed."""
    with suppress(VbackendError, OSError):
        ensure_daemon(lab.name, labs.environ)
        apply_lab(Named(lab.name, lab), labs.environ, lambda *_: None)


def up(labs: Labs, lab: Lab) -> None:
    ensure_daemon(lab.name, labs.environ)
    apply_lab(Named(lab.name, lab), labs.environ, lambda *_: None)


def kill(pid: int) -> None:
    """SIGKILL, and wait until it has taken effect: before, nobody can know of it."""
    with suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            assert select.select([pidfd], [], [], 20)[0], f"process {pid} does not end"
        finally:
            os.close(pidfd)


def unlike(labs: Labs, lab: Lab) -> list[str]:
    """What is not as wanted."""
    found = labs.status(lab.name)
    wrong = [f"{vm.name} is {vm.state}: {vm.reason}" for vm in found.vms if vm.state != "running"]
    if (pids := {vm.name: vm.pid for vm in found.vms}) != labs.pids(lab.name) or pids.keys() != lab.vm.keys():
        wrong.append(f"QEMUs: {pids}, there are {labs.pids(lab.name)}")
    if (links := {link.title for link in found.links}) != set(lab.links()):
        wrong.append(f"links: {links}")
    return wrong + [
        f"{end.name} has no peer" for link in found.links for end in link.ends if not end.connected
    ]


def wait_as_wanted(labs: Labs, lab: Lab) -> None:
    wrong = [""]

    def settled() -> bool:
        wrong[:] = unlike(labs, lab)
        return not wrong

    try:
        wait_until(settled, "the lab is as wanted")
    except AssertionError:
        raise AssertionError(f"{wrong}: {labs.folder(lab.name).log.read_text()}") from None


@pytest.mark.timeout(240)
def test_killed_at_any_moment(labs: Labs, netns: Namespace, tmp_path: Path) -> None:
    seed = int(os.environ.get("VBACKEND_KILL_SEED", "0")) or random.randrange(1 << 32)
    print(f"VBACKEND_KILL_SEED={seed}")
    random_ = random.Random(seed)
    words = {"disk": str(dumb_disk(tmp_path / "disk.img")), "netns": netns.name}
    small = parse_lab(LAB.format_map(words))
    large = parse_lab((LAB + MORE).format_map(words))
    before = netns.state()
    for number in range(ROUNDS):
        wanted = random_.choice([small, large])
        client = threading.Thread(target=try_up, args=(labs, wanted))
        client.start()
        time.sleep(random_.uniform(0, 1.5))  # any moment
        victims = list(labs.pids("shaky").values())
        killed = random_.sample(victims, random_.randint(0, len(victims)))
        if random_.random() < 0.8 and (daemon := labs.daemon("shaky")) is not None:
            killed.append(daemon)
        for pid in killed:
            kill(pid)
        client.join()
        if number % 4 == 3:
            down("shaky", labs.environ)
            assert not labs.left(), f"round {number}"
            assert netns.state() == before, f"round {number}"
        else:
            up(labs, wanted)
            wait_as_wanted(labs, wanted)
    down("shaky", labs.environ)
    assert not labs.left()
    assert netns.state() == before
