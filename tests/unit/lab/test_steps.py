"""Steps, their undo, and the line that people read."""

import pytest

from vbackend.lab.model import Capture, Dns, Nic, Switch, Vm
from vbackend.lab.steps import (
    AddNic,
    AddSegment,
    CableState,
    JoinEnd,
    LeaveEnd,
    NicPort,
    RemoveNic,
    RemoveSegment,
    Service,
    SetCable,
    SetImpairment,
    StartCapture,
    StartService,
    StartVm,
    Step,
    StopCapture,
    StopService,
    StopVm,
    describe,
    inverse,
)

VM = Vm(image="/recipes/router.toml", memory="256M", cpus=2)
NICS = {"eth0": Nic(mac="02:00:00:00:00:01"), "eth1": Nic()}
SERVICE = Service(Switch(addr=("10.0.0.1/24",), dns=Dns()))
PING = Service(Switch(addr=("10.0.0.1/24",)))
DOWN = CableState(up=False, carrier=False)


@pytest.mark.parametrize(
    ("step", "back", "line"),
    [
        (AddSegment("lan", "switch"), RemoveSegment("lan", "switch"), "+ switch lan"),
        (AddSegment("core", "cable", DOWN), RemoveSegment("core", "cable", DOWN), "+ cable core (down)"),
        (
            JoinEnd("core", "r1:eth0", NicPort(), {"delay": "50ms"}),
            LeaveEnd("core", "r1:eth0", NicPort(), {"delay": "50ms"}),
            "+ core: r1:eth0 (delay 50ms)",
        ),
        (LeaveEnd("lan", "tap:t,mtu=1400"), JoinEnd("lan", "tap:t,mtu=1400"), "- lan: t"),
        (
            StartVm("r1", VM, NICS),
            StopVm("r1", VM, NICS),
            "+ vm r1 (router.toml, 256M, 2 CPUs: eth0 eth1)",
        ),
        (StopVm("r1", Vm(kernel="k"), {}), StartVm("r1", Vm(kernel="k"), {}), "- vm r1 (k)"),
        (
            AddNic("r1", "eth0", Nic()),
            RemoveNic("r1", "eth0", Nic()),
            "+ nic r1:eth0 (virtio-net-pci, stream)",
        ),
        (
            SetImpairment(
                "core", "r1:eth0", {"delay": "10ms", "loss": "1%"}, {"delay": "50ms", "rate": "1M"}
            ),
            SetImpairment(
                "core", "r1:eth0", {"delay": "50ms", "rate": "1M"}, {"delay": "10ms", "loss": "1%"}
            ),
            "~ core to r1:eth0: delay 50ms → 10ms, rate 1M → none, loss none → 1%",
        ),
        (
            SetCable("core", DOWN, CableState()),
            SetCable("core", CableState(), DOWN),
            "~ cable core: up → down, carrier 0 → off",
        ),
        (StartService("lan", SERVICE), StopService("lan", SERVICE), "+ services of lan: dns"),
        (StopService("lan", PING), StartService("lan", PING), "- services of lan: ping"),
        (StartCapture(Capture(file="/x")), StopCapture(Capture(file="/x")), "+ capture /x of all links"),
        (
            StopCapture(Capture(file="/x", links=("a", "b"))),
            StartCapture(Capture(file="/x", links=("a", "b"))),
            "- capture /x of a, b",
        ),
    ],
    ids=str,
)
def test_step(step: Step, back: Step, line: str) -> None:
    assert inverse(step) == back
    assert inverse(back) == step
    assert describe(step) == line
