"""Plans of small changes, as `vbackend plan` shows them. Of any change: tests/property/lab/test_apply.py."""

import pytest

from vbackend.errors import ConfigError
from vbackend.lab.load import parse_lab
from vbackend.lab.model import Lab
from vbackend.lab.plan import groups, plan, summary
from vbackend.lab.steps import StartVm, StopVm, describe

BASE = """
name = "two"
[vm.r1]
image = "small"
[vm.r2]
image = "small"
[switch.lan]
ports = ["r1:eth0", "tap:t0"]
[[cable]]
ends = ["r1:eth1", "r2:eth1"]
name = "core"
delay = "50ms"
"""


def lab(*changes: tuple[str, str], text: str = BASE) -> Lab:
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parse_lab(text)


R1 = '[vm.r1]\nimage = "small"\n'
R2 = '[vm.r2]\nimage = "small"\n'


def test_all_of_a_lab() -> None:
    assert summary(plan(None, lab())) == (
        "+ switch lan",
        "+ cable core",
        "+ lan: r1:eth0",
        "+ lan: t0",
        "+ core: r1:eth1 (delay 50ms)",
        "+ core: r2:eth1 (delay 50ms)",
        "+ vm r1 (small: eth0 eth1)",
        "+ vm r2 (small: eth1)",
    )
    assert summary(plan(lab(), None)) == (
        "- lan: r1:eth0",
        "- lan: t0",
        "- core: r1:eth1 (delay 50ms)",
        "- core: r2:eth1 (delay 50ms)",
        "- switch lan",
        "- cable core",
        "- vm r1 (small: eth0 eth1)",
        "- vm r2 (small: eth1)",
    )


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (
            ('delay = "50ms"', 'delay = "10ms"\nback.loss = "1%"'),
            ("~ core to r1:eth1: delay 50ms → 10ms, loss none → 1%", "~ core to r2:eth1: delay 50ms → 10ms"),
        ),
        (('delay = "50ms"', 'delay = "50ms"\nup = false'), ("~ cable core: up → down",)),
        (('"tap:t0"', '"tap:t0,mtu=1400"'), ("- lan: t0", "+ lan: t0")),
        (('"tap:t0"', '"tap:t0", "r2:eth0"'), ("+ lan: r2:eth0", "+ nic r2:eth0 (virtio-net-pci, stream)")),
        (('"r1:eth1", "r2:eth1"', '"r2:eth1", "r1:eth1"'), ()),
        # an end moves: the guest keeps its NIC
        (
            ('["r1:eth0", "tap:t0"]', '["tap:t0"]\n[switch.wan]\nports = ["r1:eth0"]'),
            ("- lan: r1:eth0", "+ switch wan", "+ wan: r1:eth0"),
        ),
        ((R1, f"{R1}nic.eth0.mtu = 1400\n"), ("± nic r1:eth0 is replaced (virtio-net-pci, stream)",)),
        (
            (R1, f'{R1}nic.eth0.transport = "vhost-user"\n'),
            ("- lan: r1:eth0", "+ lan: r1:eth0", "± nic r1:eth0 is replaced (virtio-net-pci, vhost-user)"),
        ),
        ((R1, f'{R1}memory = "512M"\ncpus = 2\n'), ("± vm r1 restarts: memory none → 512M, cpus 1 → 2",)),
        (
            (R1, f'{R1}machine = "q35"\nnic.eth0.mtu = 1400\n'),
            ("± vm r1 restarts: machine pc → q35, nic (this machine has no hot-plug)",),
        ),
        # a new VM comes before what has to be stopped
        (
            (R1, f'{R1}start = ["true"]\n[vm.r3]\nimage = "small"\n'),
            ("+ vm r3 (small)", '± vm r1 restarts: start none → ["true"]'),
        ),
    ],
    ids=str,
)
def test_a_change(change: tuple[str, str], lines: tuple[str, ...]) -> None:
    assert summary(plan(lab(), lab(change))) == lines


def test_there_is_no_loop_of_switches_in_between() -> None:
    text = """
name = "ring"
switch = {{ a = {{}}, b = {{}} }}
[[cable]]
name = "first"
ends = ["a:first", "b:first"]
up = {first}
[[cable]]
name = "second"
ends = ["a:second", "b:second"]
up = {second}
"""
    one, other = (
        parse_lab(text.format(first=up, second=down)) for up, down in (("false", "true"), ("true", "false"))
    )
    assert summary(plan(one, other)) == ("~ cable second: up → down", "~ cable first: down → up")
    assert summary(plan(other, one)) == ("~ cable first: up → down", "~ cable second: down → up")


def test_a_vm_in_the_way_is_stopped_first() -> None:
    """It may hold what another one is to get; or its rings lose their port, without which it could not be had back."""
    for words in (
        'args = ["-vnc", ":1"]\n',
        "disk = '/d'\npersistent = true\n",
        "nic.eth1.transport = 'vhost-user'\n",
    ):
        before = lab((R2, R2 + words if "disk" not in words else "[vm.r2]\n" + words))
        now = lab((R2, ""), (', "r2:eth1"', ', "tap:t2"'))
        assert isinstance(plan(before, now)[0], StopVm), words
    assert isinstance(plan(lab(), lab((R2, ""), (', "r2:eth1"', ', "tap:t2"')))[-1], StopVm)


def test_vms_start_side_by_side() -> None:
    *others, last = groups(plan(None, lab()))
    assert [len(group) for group in others] == [1] * len(others)
    assert [type(step) for step in last] == [StartVm, StartVm]
    assert groups(()) == ()


def test_restarts_come_after_new_vms() -> None:
    now = lab((R1, f'{R1}cpus = 2\n[vm.r3]\nimage = "small"\n'), (R2, f"{R2}cpus = 2\n"))
    assert [[describe(step)[:7] for step in group] for group in groups(plan(lab(), now))] == [
        ["+ vm r3"],
        ["- vm r1", "- vm r2"],
        ["+ vm r1", "+ vm r2"],
    ]


def test_a_lab_keeps_its_name() -> None:
    with pytest.raises(ConfigError, match="'two' runs, and the file is of 'three'"):
        plan(lab(), lab(('"two"', '"three"')))
