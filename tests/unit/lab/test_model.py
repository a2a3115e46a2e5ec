"""The lab's model: what is derived from it, what it refuses, and that JSON brings it back."""

import tomllib
from typing import Any

import pytest
from pydantic import ValidationError

from vbackend.lab.model import Lab, end_name, is_vm_end

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
nat = {addr = ["10.0.0.253/24"]}
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
    assert list(two.ports()) == ["tap:lab0,addr=10.0.0.254/24"]
    assert two.switch["lan"].ra is not None


def test_json_brings_it_back() -> None:
    two = lab(TWO)
    assert Lab.model_validate_json(two.model_dump_json()) == two


@pytest.mark.parametrize(
    ("end", "of_vm", "name"),
    [
        ("r1:eth0", True, "r1:eth0"),
        ("tap:lab0", False, "lab0"),
        ("stream:unix:/tmp/a.sock", False, "a"),
        ("stream:unix:/tmp/a.sock,name=b", False, "b"),
    ],
)
def test_ends(end: str, of_vm: bool, name: str) -> None:
    assert is_vm_end(end) is of_vm
    assert end_name(end) == name


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
        ("vm.a = {image = 'small', cpu = 2}", ("vm", "a", "cpu"), "Extra inputs"),
        ("switch.s = {ports = ['a:eth0']}", (), "there is no VM 'a'; there are none"),
        ("switch.s = {ports = ['what']}", ("switch", "s", "ports", 0), "neither VM:NIC nor a PORT"),
        ("switch.s = {dns = true}", ("switch", "s"), "need an address"),
        ("switch.s = {addr = ['10.0.0.1/24'], ra = true}", ("switch", "s"), "ra needs an IPv6 address"),
        ("switch.s = {addr = ['10.0.0.1']}", ("switch", "s", "addr", 0), "no prefix length"),
        (
            "switch.s = {addr = ['10.0.0.1/24'], dhcp = {range = '10.0.1.1-10.0.1.9'}}",
            ("switch", "s"),
            "in no network of addr",
        ),
        (
            "switch.s = {addr = ['10.0.0.1/24'], dhcp = {range = '10.0.0.9-10.0.0.2'}}",
            ("switch", "s", "dhcp"),
            "ends before it begins",
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
