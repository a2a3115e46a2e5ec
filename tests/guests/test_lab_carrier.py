"""Carrier of a lab's links, as the guests see it: on streams, on vhost-user, and on a tap of the host."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lab_run import Labs, lab_runtime
from tests.support.netns import Namespace, netns
from tests.support.run import wait_until
from vbackend.control.client import call

__all__ = ["netns"]

pytestmark = [pytest.mark.root, pytest.mark.guest, pytest.mark.timeout(240), pytest.mark.usefixtures("image")]

LAB = """
[vm.r1]
image = "small"
start = ["ip link set eth0 up; ip link set eth1 up"]
[vm.r2]
image = "small"
start = ["ip link set eth0 up"]
nic.eth0 = {{ transport = "vhost-user" }}
[[cable]]
ends = ["r1:eth0", "r2:eth0"]
name = "core"
[[cable]]
ends = ["r1:eth1", "tap:lab0,netns={netns}"]
name = "host"
"""


@pytest.fixture
def labs() -> Iterator[Labs]:
    with lab_runtime() as found:
        yield found


def carrier(labs: Labs, vm: str, nic: str) -> bool:
    return "NO-CARRIER" not in labs.guest(vm, f"ip -o link show {nic}")


def changes(labs: Labs) -> str:
    return labs.guest("r1", "cat /sys/class/net/eth0/carrier_changes")


def test_carrier(labs: Labs, netns: Namespace, tmp_path: Path) -> None:
    path = tmp_path / "carrier.toml"
    path.write_text(LAB.format(netns=netns.name))
    labs.vbackend("up", str(path))
    wait_until(lambda: carrier(labs, "r1", "eth0") and carrier(labs, "r2", "eth0"), "carrier on both ends")

    labs.vbackend("set", "core", "down", "--lab", "carrier")
    assert not carrier(labs, "r1", "eth0")
    assert not carrier(labs, "r2", "eth0")
    assert carrier(labs, "r1", "eth1"), "another cable"
    labs.vbackend("set", "core", "up", "delay=1ms", "--lab", "carrier")
    assert carrier(labs, "r1", "eth0")
    assert carrier(labs, "r2", "eth0")

    labs.vbackend("set", "host", "down", "--lab", "carrier")
    wait_until(lambda: "NO-CARRIER" in netns.run("ip", "-o", "link", "show", "lab0"), "none on the tap")
    labs.vbackend("set", "host", "up", "--lab", "carrier")
    wait_until(lambda: "NO-CARRIER" not in netns.run("ip", "-o", "link", "show", "lab0"), "one on the tap")

    before = changes(labs)
    labs.kill_daemon("carrier")
    labs.vbackend("up", str(path))
    assert carrier(labs, "r1", "eth0")
    assert changes(labs) == before, "who is taken over notices nothing"

    control = str(labs.folder("carrier").control)
    call(control, "vm-stop", {"vm": "r2"})
    wait_until(lambda: not carrier(labs, "r1", "eth0"), "r1 sees that r2 is gone")
    call(control, "vm-start", {"vm": "r2"})
    wait_until(lambda: carrier(labs, "r1", "eth0") and carrier(labs, "r2", "eth0"), "r1 sees that r2 is back")
    labs.vbackend("down", "carrier")
    assert not labs.left()
