"""The lab's model: what is derived from it, what it refuses, and that JSON brings it back."""

import tomllib
from ipaddress import ip_interface
from typing import Any

import pytest
from pydantic import ValidationError

from vbackend.host.ruleset import NatConfig, parse_forward
from vbackend.lab.model import Lab
from vbackend.ports.parse import parse_port

TWO = """
name = "two"
vm.r1 = {image = "router", nic = {mgmt = {mtu = 1400}}}
vm.r2 = {image = "router"}
[switch.lan]
ports = ["r1:eth0", "tap:lab0,addr=10.0.0.254/24", "r2:eth0"]
addr = ["10.0.0.1/24", "fd00::1/64"]
dhcp = {range = "10.0.0.10-10.0.0.20", hosts = {r1 = "10.0.0.9"}}
ra = true
dns = {domain = "lab.example"}
nat = {addr = ["10.0.0.253/24"], forward = ["tcp:8080:r1:80"]}
[[cable]]
ends = ["r1:eth1", "r2:eth1"]
name = "core"
delay = "50ms"
loss = 0.01
back = {loss = "50%"}
[[capture]]
file = "lab.pcapng"
links = ["core", "lan/lab0"]
"""


def lab(text: str) -> Lab:
    return Lab.model_validate(tomllib.loads(text))


def test_what_is_derived() -> None:
    two = lab(TWO)
    assert two.links() == ("core", "lan/r1:eth0", "lan/lab0", "lan/r2:eth0")
    assert list(two.nics("r1")) == ["mgmt", "eth0", "eth1"]
    assert two.cable[0].directions() == (
        {"delay": "50ms", "loss": "0.01"},
        {"delay": "50ms", "loss": "50%"},
    )
    assert list(two.placed())[2:4] == [
        (("switch", "lan", "ports", 2), "r2:eth0"),
        (("cable", 0, "ends", 0), "r1:eth1"),
    ]
    assert list(two.ports()) == ["tap:lab0,addr=10.0.0.254/24"]
    assert two.switch["lan"].ra is not None


def test_what_a_nat_is_told() -> None:
    nat = lab(TWO).switch["lan"].nat
    assert nat is not None
    assert nat.config == NatConfig((ip_interface("10.0.0.253/24"),), (parse_forward("tcp:8080:r1:80"),))


def test_a_cable_has_the_words_of_a_port() -> None:
    cable = lab(
        "name = 'l'\ncable = [{ends = ['tap:a', 'tap:b'], delay = '5ms', jitter = '1ms', overtake = true, loss = 1e-5}]"
    ).cable[0]
    there, _ = cable.directions()
    assert there == {"delay": "5ms", "jitter": "1ms", "loss": "1e-05", "overtake": "on"}
    assert parse_port(",".join(["tap:a", *map("=".join, there.items())])).options.impairment.loss == 1e-5


SWITCHES = "switch = {s = {}, t = {}, u = {}}\ncable = [{ends = ['s:a', 't:a']}, {ends = ['t:b', 'u:b']}"


@pytest.mark.parametrize(
    "more",
    [
        "vm.s = {image = 'small'}\ncable = [{ends = ['s:a', 's:b']}]\nswitch.s = {}",  # two NICs of the VM
        f"{SWITCHES}, {{ends = ['u:d', 's:e'], up = false}}]",
        f"{SWITCHES}, {{ends = ['s:d', 'tap:a']}}, {{ends = ['t:d', 'tap:b']}}]",
    ],
)
def test_cables_of_switches(more: str) -> None:
    found = lab(f"name = 'l'\n{more}")
    assert Lab.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(
    ("switch", "joined", "cards"),
    [
        ("a", ("a", "b", "c"), ("r1:a", "r2:b", "r3:c")),
        ("c", ("a", "b", "c"), ("r1:a", "r2:b", "r3:c")),
        ("d", ("d",), ("r1:d",)),
        ("e", ("e",), ()),
    ],
)
def test_a_network(switch: str, joined: tuple[str, ...], cards: tuple[str, ...]) -> None:
    found = lab(
        "name = 'l'\nvm = {r1 = {image = 'i'}, r2 = {image = 'i'}, r3 = {image = 'i'}}\n"
        "switch = {a = {ports = ['r1:a', 'tap:t']}, b = {ports = ['r2:b']}, c = {}, d = {ports = ['r1:d']}, e = {}}\n"
        "cable = [{ends = ['c:x', 'b:x']}, {ends = ['r3:c', 'c:y']}, {ends = ['b:y', 'a:x'], up = false}, "
        "{ends = ['r1:z', 'r2:z']}]"
    )
    assert (found.joined(switch), found.cards(switch)) == (joined, cards)


def test_json_brings_it_back() -> None:
    two = lab(TWO)
    assert Lab.model_validate_json(two.model_dump_json()) == two


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("vm.Router = {image = 'small'}", ("vm", "Router", "[key]"), "is no name"),
        ("vm.tap = {image = 'small'}", ("vm", "tap", "[key]"), "is a kind of PORT"),
        ("vm.a = {}", ("vm", "a"), "nothing to boot"),
        ("vm.a = {image = 'small', kernel = 'x'}", ("vm", "a"), "an image has its kernel"),
        ("vm.a = {disk = 'x', start = ['id']}", ("vm", "a"), "need the agent"),
        ("vm.a = {image = 'small', memory = '12'}", ("vm", "a", "memory"), "no size of memory"),
        ("vm.a = {image = 'small', nic = {e = {queues = 2}}}", ("vm", "a", "nic", "e"), "vhost-user"),
        (
            "vm.a = {image = 'small', nic = {e = {transport = 'vhost-user', model = 'e1000'}}}",
            ("vm", "a", "nic", "e"),
            "e1000 has no vhost-user; take a virtio-net model",
        ),
        (
            "switch.s = {addr = ['10.0.0.1/24'], dhcp = {range = '10.0.0.9-10.0.0.9', router = 'fd00::1'}}",
            ("switch", "s", "dhcp", "router"),
            "'fd00::1' is no IPv4 address",
        ),
        (
            "switch.s = {addr = ['10.0.0.1/24'], dhcp = {range = '10.0.0.9-10.0.0.9', hosts = {a = 'fd00::1'}}}",
            ("switch", "s", "dhcp", "hosts", "a"),
            "'fd00::1' is no IPv4 address",
        ),
        ("vm.a = {image = 'small', cpu = 2}", ("vm", "a", "cpu"), "Extra inputs"),
        ("switch.s = {ports = ['a:eth0']}", (), "there is no VM 'a'; there are none"),
        ("switch.s = {}\ncable = [{ends = ['s:a', 'x:a']}]", (), "no VM or switch 'x'; there are s"),
        ("switch = {s = {}, t = {ports = ['s:a']}}", (), "join switches by a [[cable]]"),
        ("switch.s = {}\ncable = [{ends = ['s:nat', 'tap:a']}]", (), "of the switch's own is called so"),
        (f"{SWITCHES}, {{ends = ['s:d', 's:e'], name = 'x'}}]", (), "cable 'x' closes a loop of switches"),
        (f"{SWITCHES}, {{ends = ['s:d', 't:e']}}]", (), "give it up = false"),
        (f"{SWITCHES}, {{ends = ['u:d', 's:e']}}]", (), "cable 'u:d--s:e' closes a loop"),
        (
            "switch.s = {nat = {addr = ['10.0.0.1/24'], forward = ['80:a:80']}}",
            ("switch", "s", "nat", "forward", 0),
            "give tcp:PORT:GUEST:PORT",
        ),
        (
            "switch.s = {ports = ['what']}",
            ("switch", "s", "ports", 0),
            "neither VM:NIC, SWITCH:NAME nor a PORT",
        ),
        (
            "switch.s = {}\ncable = [{ends = ['s', 'tap:a']}]",
            ("cable", 0, "ends", 0),
            "neither VM:NIC, SWITCH:NAME",
        ),
        ("switch.s = {dns = true}", ("switch", "s"), "need an address"),
        ("switch.s = {addr = ['10.0.0.1/24'], ra = true}", ("switch", "s"), "ra needs an IPv6 address"),
        ("switch.s = {addr = ['10.0.0.1']}", ("switch", "s", "addr", 0), "no prefix length"),
        (
            "switch.s = {addr = ['10.0.0.1/24'], dhcp = {range = '10.0.1.1-10.0.1.9'}}",
            ("switch", "s"),
            "in no network of addr",
        ),
        (
            "switch.s = {addr = ['10.0.0.1/24'], dhcp = {range = '10.0.0.9-10.0.1.2'}}",
            ("switch", "s"),
            "in no network of addr",
        ),
        (
            "switch.s = {addr = ['10.0.0.1/24'], dhcp = {range = '10.0.0.9-10.0.0.2'}}",
            ("switch", "s", "dhcp"),
            "ends before it begins",
        ),
        (
            "cable = [{ends = ['tap:a', 'tap:b'], delay = '5'}]",
            ("cable", 0, "delay"),
            "give a time such as 200us",
        ),
        ("cable = [{ends = ['tap:a', 'tap:b'], queue = 0}]", ("cable", 0, "queue"), "a number from 1 to"),
        ("cable = [{ends = ['tap:a', 'tap:b'], rate = 'x'}]", ("cable", 0, "rate"), "bits/s such as"),
        (
            "cable = [{ends = ['tap:a', 'tap:b'], back = {loss = 2}}]",
            ("cable", 0, "back", "loss"),
            "at most 100%",
        ),
        (
            "cable = [{ends = ['tap:a', 'tap:b'], carrier = 'x'}]",
            ("cable", 0, "carrier"),
            "give a time such as",
        ),
        ("cable = [{ends = ['tap:a', 'tap:b'], jitter = '1ms'}]", ("cable", 0), "exceeds delay"),
        ("cable = [{ends = ['tap:a', 'tap:b'], back = {burst = 9000}}]", ("cable", 0), "without a rate"),
        (
            "cable = [{ends = ['tap:a', 'tap:b,loss=1%,rate=1M']}]",
            (),
            "rate, loss of 'tap:b,loss=1%,rate=1M'",
        ),
        (
            "cable = [{ends = ['tap:a,queue=9', 'tap:b,queue=9'], back = {queue = 5}}]",
            (),
            "queue of 'tap:a,queue=9': on a cable",
        ),
        (
            "switch.s = {addr = ['fd00::1/64'], ra = {lifetime = '5x'}}",
            ("switch", "s", "ra", "lifetime"),
            "whole seconds",
        ),
        ("vm.a = {image = 'small', nic = {e = {transport = 'vhost-user'}}}", (), "joined to nothing"),
        ("cable = [{ends = ['tap:a', 'tap:a']}]", (), "is joined twice"),
        (
            "switch.s = {}\ncable = [{ends = ['tap:a', 'tap:b'], name = 's'}]",
            (),
            "a switch is called 's' too",
        ),
        ("capture = [{file = 'x'}, {file = 'x'}]", (), "two captures write 'x'"),
        (
            "vm.a = {image = 'small'}\n[switch.s]\naddr = ['10.0.0.1/24']\n"
            "dhcp = {range = '10.0.0.2-10.0.0.3', hosts = {a = '10.0.0.9'}}",
            (),
            "'a' is not on this switch",
        ),
        (
            "[switch.s]\naddr = ['10.0.0.1/24']\n"
            "dhcp = {range = '10.0.0.2-10.0.0.3', hosts = {b = '10.0.0.9'}}",
            (),
            "'b' is no VM, VM:NIC or MAC address",
        ),
        ("cable = [{ends = ['tap:a', 'tap:b']}]\ncapture = [{file = 'x', links = ['y']}]", (), "no link 'y'"),
        (
            "cable = [{ends = ['tap:a', 'tap:b'], name = 'x'}, {ends = ['tap:c', 'tap:d'], name = 'x'}]",
            (),
            "two links are called 'x'",
        ),
    ],
)
def test_what_is_refused(text: str, where: tuple[Any, ...], what: str) -> None:
    with pytest.raises(ValidationError) as caught:
        lab(f"name = 'l'\n{text}")
    (error,) = caught.value.errors()
    assert error["loc"] == where
    assert what in error["msg"]
