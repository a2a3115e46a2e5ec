"""The pytest plugin with real guests: one lab that its tests hand to each other, and runs of pytest of their own."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.frames import BROADCAST, frame, mac
from vbackend.testing import CommandError, Lab

pytestmark = pytest.mark.guest

LAB = """
vm.a = { image = "small", nic.eth0 = { addr = ["10.0.0.1/24"] } }
vm.b = { image = "small", nic.eth0 = { addr = ["10.0.0.2/24"], transport = "vhost-user" } }
cable = [{ name = "core", ends = ["a:eth0", "b:eth0"] }]
switch.lan.ports = ["a:eth1", "stream:unix:peer.sock,name=peer"]
"""
CARRIER = "grep -qx {} /sys/class/net/eth0/carrier"
README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def pytester_with_images(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> pytest.Pytester:
    """Its home is another, where no images are built yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"))
    found: pytest.Pytester = request.getfixturevalue("pytester")
    return found


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab(LAB, reuse=True)


def test_commands(lab: Lab) -> None:
    a = lab.vm("a")
    assert a.run("hostname").stdout == "a\n"
    with pytest.raises(CommandError, match="a: 'echo oops >&2; exit 3': status 3\noops"):
        a.run("echo oops >&2; exit 3")
    assert a.run("exit 3", check=False).status == 3
    a.run("touch /tmp/seen; (sleep 1; touch /tmp/later) >/dev/null 2>&1 &")
    a.wait_until("test -e /tmp/later")
    assert "activate this console" in a.console
    assert a.mac("eth0") == a.run("cat /sys/class/net/eth0/address").stdout.strip()


def test_guests_are_as_they_were(lab: Lab) -> None:
    """After the test before; also when only this one runs."""
    a, b = lab.vm("a"), lab.vm("b")
    assert a.run("test -e /tmp/seen", check=False).status == 1
    with lab.link("core").capture("icmp") as recording:
        a.run("ping -c 2 -i 0.2 10.0.0.2")
        b.run("ping -c 2 -i 0.2 10.0.0.1")
    ways = [(packet.source, packet.target, packet.frame[34]) for packet in recording.packets]
    there, back = ("a:eth0", "b:eth0"), ("b:eth0", "a:eth0")
    assert ways == [(*there, 8), (*back, 0)] * 2 + [(*back, 8), (*there, 0)] * 2
    lab.wait_for_first_frame("a:eth0")
    lab.link("core").down()
    lab.link("core").impair(loss=1.0)


def test_links_are_as_they_were(lab: Lab) -> None:
    a, core = lab.vm("a"), lab.link("core")
    a.run(CARRIER.format(1))
    a.run("ping -c 1 10.0.0.2")
    core.down()
    a.wait_until(CARRIER.format(0))
    core.up()
    a.wait_until(CARRIER.format(1))
    before = core.stats
    core.impair("back", loss=1.0, seed=7)
    assert a.run("ping -c 1 -W 1 10.0.0.2", check=False).status == 1
    assert core.stats.forward.lost == before.forward.lost == 0
    assert core.stats.back.lost > 0


def test_a_guest_in_python_beside_one_that_boots(lab: Lab) -> None:
    a, peer = lab.vm("a"), lab.fake_guest("peer")
    a.run("ip link set eth1 up; ip addr add 10.1.0.1/24 dev eth1")
    a.run("ping -c 1 -W 1 10.1.0.2", check=False)
    request = peer.expect("arp dst host 10.1.0.2")
    assert request[6:12].hex(":") == a.mac("eth1")
    with lab.link("lan/a:eth1").capture() as recording:
        lab.link("lan/a:eth1").inject(frame(BROADCAST, mac(1), size=60), toward="lan")
        assert recording.expect("ether proto 0x88b5").source == "a:eth1"
    assert peer.expect("ether proto 0x88b5")[:6] == BROADCAST


def test_power(lab: Lab) -> None:
    """Its guest is another one afterwards, so whoever is next gets a new lab."""
    a = lab.vm("a")
    a.run("touch /tmp/seen")
    a.reset()
    assert a.run("test -e /tmp/seen", check=False).status == 1
    a.wait_until("ping -c 1 -W 1 10.0.0.2")


DHCP = """
vm.h1 = { image = "small", start = ["udhcpc -b -i eth0 >/dev/null 2>&1"] }
[switch.lan]
ports = ["h1:eth0"]
addr = ["10.0.0.1/24"]
dhcp = { range = "10.0.0.100-10.0.0.150", hosts = { h1 = "10.0.0.50" } }
"""


def test_a_lease(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(DHCP)
    assert lab.wait_for_lease("h1") == lab.wait_for_lease("h1:eth0") == "10.0.0.50"


FAILS = f"""
import pytest

@pytest.mark.lab('''{LAB}''')
def test_it(lab):
    lab.vm("a").run("ping -c 1 10.0.0.2")
    lab.vm("b").run("echo oops >&2; exit 3")
"""


def test_a_failure_leaves_what_was_seen(pytester_with_images: pytest.Pytester) -> None:
    pytester = pytester_with_images
    pytester.makepyfile(FAILS)
    result = pytester.runpytest_inprocess("-p", "no:asyncio", "--vbackend-artifacts", "left")
    result.assert_outcomes(failed=1)
    lines = ["*CommandError: b: 'echo oops >&2; exit 3': status 3", "*oops", "*- lab lab-1 -*", "*TRAFFIC*"]
    lines += ["*- lab lab-1, VM a -*", "$ *qemu-system-x86_64 *", "*activate this console*"]
    result.stdout.fnmatch_lines(lines)
    left = next((pytester.path / "left").iterdir()) / "lab-1"
    logs = {f"{vm}.{log}" for vm in "ab" for log in ("command", "console.log", "qemu.log")}
    assert {path.name for path in left.iterdir()} == {"daemon.log", "links.pcapng", "show.txt"} | logs
    assert b"\x08\x00" in (left / "links.pcapng").read_bytes()


def test_the_test_in_the_readme(pytester_with_images: pytest.Pytester) -> None:
    section = README.read_text().split("## Testing with pytest\n")[1].split("\n## ")[0]
    (test,) = re.findall(r"```python\n(import pytest\n.*?)```", section, re.S)
    assert len([line for line in test.splitlines() if line]) == 10, "the README says ten lines"
    pytester_with_images.makepyfile(test)
    pytester_with_images.runpytest_inprocess("-p", "no:asyncio").assert_outcomes(passed=1)
