"""What a lab is when it runs, and what steps may not do. All of it in motion: tests/property/lab/test_apply.py."""

from dataclasses import replace

import pytest
from pydantic import TypeAdapter

from vbackend.errors import ConfigError
from vbackend.lab.load import parse_lab
from vbackend.lab.model import Capture, Nic, Switch, Vm
from vbackend.lab.names import mac_address
from vbackend.lab.picture import NOTHING, Machine, Picture, Place, Segment, after, picture
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
    StopVm,
    SwitchPort,
)

TWO = """
name = "two"
[vm.r1]
image = "small"
nic.eth1 = { transport = "vhost-user", queues = 2, mtu = 1400, addr = ["10.1.0.1/24"] }
[vm.h1]
image = "small"
nic.eth0 = { mac = "02:00:00:00:00:09" }
[switch.lan]
ports = ["r1:eth0", "h1:eth0"]
addr = ["10.0.0.1/24"]
dns = {}
dhcp = { range = "10.0.0.10-10.0.0.20", hosts = { h1 = "10.0.0.9", "02-00-00-00-00-0A" = "10.0.0.8" } }
[switch.plain]
[[cable]]
ends = ["r1:eth1", "tap:t0,mtu=1400"]
name = "core"
up = false
carrier = false
delay = "50ms"
forward.loss = "1%"
[[capture]]
file = "/x.pcapng"
"""


def test_picture() -> None:
    found = picture(parse_lab(TWO))
    assert found.segments == {
        "lan": Segment("switch"),
        "plain": Segment("switch"),
        "core": Segment("cable", CableState(up=False, carrier=False)),
    }
    assert found.places == {
        "r1:eth0": Place("lan", "r1:eth0", NicPort()),
        "h1:eth0": Place("lan", "h1:eth0", NicPort()),
        "r1:eth1": Place("core", "r1:eth1", NicPort("vhost-user", 2, 1400), {"delay": "50ms"}),
        "t0": Place("core", "tap:t0,mtu=1400", None, {"delay": "50ms", "loss": "1%"}),
    }
    assert found.vms["h1"].nics == {"eth0": Nic(mac="02:00:00:00:00:09")}
    assert found.vms["r1"].nics["eth0"].mac == mac_address("two", "r1", "eth0")
    assert found.vms["r1"].vm.nic == {}
    assert found.links() == {"lan/r1:eth0", "lan/h1:eth0", "core"} == set(parse_lab(TWO).links())
    assert found.services.keys() == {"lan"}
    lan = found.services["lan"]
    assert lan.switch.ports == ()
    assert lan.reserved == {"02:00:00:00:00:09": "10.0.0.9", "02:00:00:00:00:0a": "10.0.0.8"}
    assert lan.names == {"r1": ("10.1.0.1",), "h1": ("10.0.0.9",)}
    assert lan.guests == {mac_address("two", "r1", "eth0"): "r1", "02:00:00:00:00:09": "h1"}


def test_services_know_who_is_behind_a_cable() -> None:
    text = TWO.replace('ports = ["r1:eth0", "h1:eth0"]', 'ports = ["r1:eth0"]')
    lab = parse_lab(text + '[[cable]]\nends = ["h1:eth0", "lan:h1"]\ndelay = "5ms"')
    assert picture(lab).services == picture(parse_lab(TWO)).services


def test_a_cable_of_switches() -> None:
    found = picture(
        parse_lab(
            'name = "l"\nswitch = { a = {}, b = {} }\ncable = [{ ends = ["a:up", "b:up"], back.loss = "1%" }]'
        )
    )
    assert found.places == {
        "a:up": Place("a:up--b:up", "a:up", SwitchPort("a"), {"loss": "1%"}),
        "b:up": Place("a:up--b:up", "b:up", SwitchPort("b")),
    }
    assert found.links() == {"a:up--b:up"}
    assert TypeAdapter(Picture).validate_json(TypeAdapter(Picture).dump_json(found)) == found


def test_a_name_has_its_addresses_on_the_switch_if_there_are_any() -> None:
    lab = parse_lab(TWO.replace("nic.eth1 = {", 'nic.eth0 = { addr = ["10.0.0.7/24"] }\nnic.eth1 = {'))
    assert picture(lab).services["lan"].names["r1"] == ("10.0.0.7",)


VM = Vm(image="small")
RINGS = Nic(mac="02:00:00:00:00:01", transport="vhost-user")
SERVICE = Service(Switch(addr=("10.0.0.1/24",)))
HERE = Picture(
    segments={
        **{name: Segment("switch") for name in ("lan", "wide")},
        **{name: Segment("cable") for name in ("core", "free", "up")},
    },
    places={
        "wide:a": Place("up", "wide:a", SwitchPort("wide")),
        "r1:eth0": Place("core", "r1:eth0", NicPort()),
        "t0": Place("core", "tap:t0", None, {"delay": "1s"}),
    },
    vms={"r1": Machine(VM, {"eth0": Nic()})},
    services={"lan": SERVICE},
)


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (AddSegment("lan", "switch"), "there is a 'lan' already"),
        (RemoveSegment("wan", "switch"), "there is no 'wan'"),
        (RemoveSegment("core", "cable"), "r1:eth0, t0 must leave first"),
        (RemoveSegment("lan", "switch"), "its services must stop first"),
        (RemoveSegment("free", "switch"), "'free' is another one by now"),
        (JoinEnd("wan", "tap:t1"), "there is no 'wan'"),
        (JoinEnd("free", "wan:a", SwitchPort("wan")), "there is no 'wan'"),
        (JoinEnd("free", "core:a", SwitchPort("core")), "'core' is a cable"),
        (RemoveSegment("wide", "switch"), "wide:a must leave first"),
        (JoinEnd("lan", "tap:t0,mtu=1400"), "there is a 't0' already"),
        (JoinEnd("core", "tap:t1"), "the cable has two ends already"),
        (LeaveEnd("core", "tap:t0"), "'t0' is another one by now"),
        (StartVm("r1", VM, {}), "there is a 'r1' already"),
        (StartVm("r2", VM, {"eth0": RINGS}), "the port of r2:eth0 must be there first"),
        (StopVm("r1", VM, {}), "'r1' is another one by now"),
        (AddNic("r2", "eth0", Nic()), "there is no 'r2'"),
        (AddNic("r1", "eth0", Nic()), "there is a 'eth0' already"),
        (AddNic("r1", "eth0", RINGS), "the port of r1:eth0 must be there first"),
        (RemoveNic("r1", "eth1", Nic()), "there is no 'eth1'"),
        (SetImpairment("lan", "tap:t0", {}, {"delay": "1s"}), "the end is elsewhere"),
        (SetImpairment("core", "tap:t0", {}, {}), "impaired otherwise"),
        (SetCable("core", CableState(), CableState(up=False)), "in another state"),
        (SetCable("lan", CableState(up=False), CableState()), "in another state"),
        (StartService("core", SERVICE), "a cable has no services"),
        (StartService("lan", SERVICE), "there is a 'lan' already"),
        (StartCapture(Capture(file="/x", links=("lan/x", "core"))), "there is no link lan/x"),
    ],
    ids=str,
)
def test_what_cannot_be_done(step: Step, why: str) -> None:
    with pytest.raises(ConfigError, match=r"^step '.*': ") as caught:
        after(HERE, step)
    assert why in str(caught.value)


def test_a_step_leaves_the_picture_before_it_alone() -> None:
    before = replace(HERE)
    after(HERE, SetImpairment("core", "tap:t0", {}, {"delay": "1s"}))
    after(HERE, RemoveNic("r1", "eth0", Nic()))
    assert before == HERE
    assert after(NOTHING, AddSegment("lan", "switch")).segments == {"lan": Segment("switch")}
