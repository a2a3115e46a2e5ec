"""What is in the way of something else in a lab: each place, and what is said of it."""

import tomllib

import pytest

from vbackend.lab.conflicts import conflicts
from vbackend.lab.locate import key_text
from vbackend.lab.model import Lab
from vbackend.lab.names import gateway_mac, mac_address, station_mac, tap_mac

MAC = "02:00:00:00:00:01"
VMS = "vm.a.image = 'small'\nvm.b.image = 'small'\n"
LAN = f"{VMS}switch.lan.ports = ['a:eth0', 'b:eth0']\n"
CORE = f"{VMS}cable = [{{ends = ['a:e', 'b:e'], name = 'core'}}]\n"
APART = f"{VMS}switch.s.ports = ['a:e']\nswitch.t.ports = ['b:e']\n"
NET = f"{LAN}switch.lan.addr = ['10.0.0.1/24', 'fd00::1/64']\n"
NAT = f"{LAN}vm.a.nic.eth0.addr = ['10.0.0.5/24']\nvm.b.nic.eth0.addr = ['fd00::6/64']\n[switch.lan.nat]\n"
ANOTHER = "give one of them another"


def found(text: str) -> list[str]:
    lab = Lab.model_validate(tomllib.loads(f"name = 'l'\n{text}"))
    return [f"{key_text(where)}: {what}" for where, what in conflicts(lab)]


@pytest.mark.parametrize(
    ("text", "complaints"),
    [
        (
            f"{LAN}vm.a.nic.eth0.mac = '{MAC}'\nvm.b.nic.eth0.mac = '02-00-00-00-00-01'",
            [
                f"vm.b.nic.eth0.mac: {MAC} belongs to a:eth0 too (vm.a.nic.eth0.mac), on the same switch lan; {ANOTHER}"
            ],
        ),
        (
            f"{CORE}vm.a.nic.e.mac = '{MAC}'\nvm.b.nic.e.mac = '{MAC}'",
            [f"vm.b.nic.e.mac: {MAC} belongs to a:e too (vm.a.nic.e.mac), on the same cable core; {ANOTHER}"],
        ),
        (
            f"{APART}vm.a.nic.e.mac = '{MAC}'\nvm.b.nic.e.mac = '{MAC}'",
            [],
        ),
        (
            f"{APART}cable = [{{ends = ['s:x', 't:x']}}]\nvm.a.nic.e.mac = '{MAC}'\nvm.b.nic.e.mac = '{MAC}'",
            [f"vm.b.nic.e.mac: {MAC} belongs to a:e too (vm.a.nic.e.mac), on joined switches s, t; {ANOTHER}"],
        ),
        (
            f"{LAN}vm.a.nic.eth0.mac = '{mac_address('l', 'b', 'eth0')}'",
            [
                f"vm.a.nic.eth0.mac: {mac_address('l', 'b', 'eth0')} belongs to b:eth0 too (switch.lan.ports[1]), "
                f"on the same switch lan; {ANOTHER}"
            ],
        ),
        (
            f"{VMS}switch.lan.ports = ['a:e', 'stream:unix:/x,mac={MAC},name=x']\nvm.a.nic.e.mac = '{MAC}'",
            [
                f"switch.lan.ports[1]: {MAC} belongs to a:e too (vm.a.nic.e.mac), on the same switch lan; {ANOTHER}"
            ],
        ),
        (
            f"{VMS}switch.lan.ports = ['a:e', 'tap:t0']\nvm.a.nic.e.mac = '{tap_mac('l', 't0')}'",
            [
                f"vm.a.nic.e.mac: {tap_mac('l', 't0')} belongs to t0 too (switch.lan.ports[1]), "
                f"on the same switch lan; {ANOTHER}"
            ],
        ),
        (
            f"{NET}vm.a.nic.eth0.mac = '{station_mac('l', 'lan')}'",
            [
                f"vm.a.nic.eth0.mac: {station_mac('l', 'lan')} belongs to the services of lan too (switch.lan.addr), "
                f"on the same switch lan; {ANOTHER}"
            ],
        ),
        (
            f"{LAN}switch.lan.nat.addr = ['10.0.0.2/24']\nvm.a.nic.eth0.mac = '{gateway_mac('l', 'lan')}'",
            [
                f"vm.a.nic.eth0.mac: {gateway_mac('l', 'lan')} belongs to the NAT of lan too (switch.lan.nat), "
                f"on the same switch lan; {ANOTHER}"
            ],
        ),
        (
            f"{VMS}vm.a.nic.x.mac = '{MAC}'\nvm.a.nic.y.mac = '{MAC}'",
            [
                f"vm.a.nic.y.mac: {MAC} belongs to a:x too (vm.a.nic.x.mac), "
                f"and the guest's agent tells its NICs apart by them; {ANOTHER}"
            ],
        ),
        (f"vm.a = {{disk = 'd', nic.x.mac = '{MAC}', nic.y.mac = '{MAC}'}}", []),
    ],
    ids=[
        "switch", "cable", "two switches", "joined", "made of names", "PORT", "tap", "services", "NAT",
        "one guest", "no agent",
    ],
)  # fmt: skip
def test_mac_addresses(text: str, complaints: list[str]) -> None:
    assert found(text) == complaints


@pytest.mark.parametrize(
    ("text", "complaints"),
    [
        (
            f"{LAN}vm.a.nic.eth0.addr = ['10.0.0.5/24', 'fd00::5/64']\nvm.b.nic.eth0.addr = ['fd00:0::5/48']",
            [
                "vm.b.nic.eth0.addr[0]: fd00::5 belongs to a:eth0 too (vm.a.nic.eth0.addr[1]), "
                f"on the same switch lan; {ANOTHER}"
            ],
        ),
        (
            f"{CORE}vm.a.nic.e.addr = ['10.0.0.5/24']\nvm.b.nic.e.addr = ['10.0.0.5/24']",
            [
                "vm.b.nic.e.addr[0]: 10.0.0.5 belongs to a:e too (vm.a.nic.e.addr[0]), "
                f"on the same cable core; {ANOTHER}"
            ],
        ),
        (
            f"{APART}vm.a.nic.e.addr = ['10.0.0.5/24']\nvm.b.nic.e.addr = ['10.0.0.5/24']",
            [],
        ),
        (
            f"{NET}vm.b.nic.eth0.addr = ['10.0.0.1/24']",
            [
                "vm.b.nic.eth0.addr[0]: 10.0.0.1 belongs to the services of lan too (switch.lan.addr[0]), "
                f"on the same switch lan; {ANOTHER}"
            ],
        ),
        (
            f"{NET}switch.lan.nat.addr = ['10.0.0.2/24', '10.0.0.1/24']",
            [
                "switch.lan.nat.addr[1]: 10.0.0.1 belongs to the services of lan too (switch.lan.addr[0]), "
                f"on the same switch lan; {ANOTHER}"
            ],
        ),
        (
            f"{VMS}vm.a.nic.e.addr = ['10.0.0.5/24']\nswitch.lan.ports = ['a:e', 'tap:t0,addr=10.0.0.5/24']",
            [
                "switch.lan.ports[1]: 10.0.0.5 belongs to a:e too (vm.a.nic.e.addr[0]), "
                f"on the same switch lan; {ANOTHER}"
            ],
        ),
        (
            f"{NET}vm.a.nic.eth0.addr = ['10.0.0.5/24']\n"
            "switch.lan.dhcp = {range = '10.0.0.100-10.0.0.110', hosts = {a = '10.0.0.5', 'b:eth0' = '10.0.0.6'}}",
            [],
        ),
        (
            f"{NET}vm.a.nic.eth0.addr = ['10.0.0.5/24']\n"
            "switch.lan.dhcp = {range = '10.0.0.100-10.0.0.110', hosts = {'b:eth0' = '10.0.0.5'}}",
            [
                'switch.lan.dhcp.hosts."b:eth0": 10.0.0.5 belongs to a:eth0 too (vm.a.nic.eth0.addr[0]), '
                f"on the same switch lan; {ANOTHER}"
            ],
        ),
        (
            f"{NET}vm.a.nic.eth0 = {{mac = '{MAC}', addr = ['10.0.0.5/24']}}\n"
            f"switch.lan.dhcp = {{range = '10.0.0.100-10.0.0.110', hosts = {{'{MAC}' = '10.0.0.5'}}}}",
            [],
        ),
        (
            f"{NET}[switch.lan.dhcp]\nrange = '10.0.0.100-10.0.0.110'\n"
            f"hosts = {{a = '10.0.0.5', '{MAC}' = '10.0.0.5'}}",
            [
                f'switch.lan.dhcp.hosts."{MAC}": 10.0.0.5 belongs to a:eth0 too (switch.lan.dhcp.hosts.a), '
                f"on the same switch lan; {ANOTHER}"
            ],
        ),
        (
            f"{VMS}switch.s.ports = ['a:e']\ncable = [{{ends = ['b:e', 's:b']}}]\n"
            f"vm.a.nic.e.addr = ['10.0.0.1/24']\nvm.b.nic.e.addr = ['10.0.0.1/24']",
            [
                "vm.b.nic.e.addr[0]: 10.0.0.1 belongs to a:e too (vm.a.nic.e.addr[0]), "
                f"on the same switch s; {ANOTHER}"
            ],
        ),
    ],
    ids=[
        "switch", "cable", "two switches", "services", "NAT", "tap", "reserved for its owner", "reserved", "by MAC",
        "reserved twice", "behind a cable",
    ],
)  # fmt: skip
def test_ip_addresses(text: str, complaints: list[str]) -> None:
    assert found(text) == complaints


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("addr = ['224.0.0.1/24']\ndns = true", "addr: 224.0.0.1 cannot be a station's address; give another addr="),
        (
            "addr = ['10.0.0.1/24']\ndhcp = {range = '10.0.0.9-10.0.0.9', hosts = {a = '10.1.0.9'}}",
            "dhcp: host 10.1.0.9: give another address of 10.0.0.0/24 than the server's",
        ),
        (
            "addr = ['10.0.0.1/24']\ndhcp = {range = '10.0.0.9-10.0.0.9', lease = 0}",
            "dhcp: lease is 0 s; give at least a second and less than 2^32-1",
        ),
        ("addr = ['fd00::1/64']\nra = {lifetime = '2d'}", "ra: lifetime is 172800 s; give 0, or 600 to 65535"),
        (
            "addr = ['10.0.0.1/24']\ndns = {records = {'a b' = '10.0.0.9'}}",
            "dns: record 'a b' is no host name; give letters, digits and -",
        ),
    ],
    ids=["addr", "dhcp", "lease", "ra", "dns"],
)  # fmt: skip
def test_what_cannot_be_served(text: str, complaint: str) -> None:
    assert found(f"{VMS}[switch.lan]\nports = ['a:eth0']\n{text}") == [f"switch.lan.{complaint}"]


@pytest.mark.parametrize(
    ("forwards", "complaints"),
    [
        (["tcp:8080:a:80", "udp:8080:a:80", "tcp:8081:10.0.0.9:80"], []),
        (
            ["tcp:8080:c:80"],
            [
                "[0]: forward to c:80: no address of c is known; give the guest an addr= or a reservation, "
                "or put the address in the place of the name"
            ],
        ),
        (
            ["tcp:127.0.0.1:8080:b:80"],
            [
                "[0]: forward to b:80: no IPv4 address of b is known; give the guest an addr= or a reservation, "
                "or put the address in the place of the name"
            ],
        ),
        (
            ["tcp:8080:a:80", "tcp:0.0.0.0:8080:10.0.0.9:81"],
            ["[1]: tcp port 8080 of the host leads to a:80 already (switch.lan.nat.forward[0]); give another port"],
        ),
        (
            ["tcp:127.0.0.1:8080:a:80", "tcp:127.0.0.1:8080:a:81"],
            ["[1]: tcp port 8080 of the host leads to a:80 already (switch.lan.nat.forward[0]); give another port"],
        ),
        (["tcp:8080:a:80", "tcp:8080:b:80"], []),
        (["tcp:8080:a:80", "tcp:127.0.0.1:8080:a:81"], []),
    ],
    ids=["apart", "no guest", "no address", "twice", "twice at an address", "two IP versions", "more exactly"],
)  # fmt: skip
def test_forwards(forwards: list[str], complaints: list[str]) -> None:
    said = found(f"{NAT}addr = ['10.0.0.254/24', 'fd00::ff/64']\nforward = {forwards}")
    assert said == [f"switch.lan.nat.forward{complaint}" for complaint in complaints]


@pytest.mark.parametrize(
    ("forwards", "complaints"),
    [
        (["tcp:8080:[fd00::9]:80"], []),
        (
            ["tcp:8080:10.0.0.9:80"],
            ["[0]: 10.0.0.9 has an IPv4 address, and the NAT none; give it one in nat.addr"],
        ),
    ],
)
def test_forwards_of_a_version_that_the_nat_lacks(forwards: list[str], complaints: list[str]) -> None:
    said = found(f"{NAT}addr = ['fd00::ff/64']\nforward = {forwards}")
    assert said == [f"switch.lan.nat.forward{complaint}" for complaint in complaints]


def test_a_bridge_that_is_another_port() -> None:
    ports = ["tap:t0,bridge=b", "tap:t1,bridge=b", "tap:b"]
    assert found(f"switch.s.ports = {ports}") == [
        "switch.s.ports[2]: device b belongs to bridge b too (switch.s.ports[0]), and is for one end only; "
        "name another"
    ]


def test_a_port_that_two_switches_forward() -> None:
    text = "".join(
        f"[switch.s{number}.nat]\naddr = ['10.{number}.0.1/24']\nforward = ['tcp:8080:10.{number}.0.2:80']\n"
        for number in (1, 2)
    )
    assert found(text) == [
        "switch.s2.nat.forward[0]: tcp port 8080 of the host leads to 10.1.0.2:80 already "
        "(switch.s1.nat.forward[0]); give another port"
    ]


@pytest.mark.parametrize(
    ("one", "two", "what"),
    [
        ("tap:t0", "tap:t0,addr=10.0.0.1/24", "device t0"),
        ("tap:t0", "tun:t0", "device t0"),
        ("tap:t0,netns=n", "tap:t0,netns=n", "device t0 of namespace n"),
        ("tap:t0", "tap:t0,netns=n", None),
        ("stream:unix:/s", "vhost-user:/s", "socket /s"),
        ("stream:unix:/s", "unit:/s", "socket /s"),
        ("stream:unix:/s,dial", "stream:unix:/s,dial", None),
        ("stream:tcp:127.0.0.1:7", "socket:listen:127.0.0.1:7", "TCP port 7 of 127.0.0.1"),
        ("stream:tcp:127.0.0.1:0", "stream:tcp:127.0.0.1:0", None),
        ("dgram:unix:/s:/a", "dgram:unix:/s:/b", "socket /s"),
        ("dgram:udp:127.0.0.1:7:127.0.0.1:8", "dgram:udp:127.0.0.1:7:127.0.0.1:9", "UDP port 7 of 127.0.0.1"),
        ("dgram:mcast:230.0.0.1:7", "dgram:mcast:230.0.0.1:7", None),
        ("vde:/v", "vde:/v", "directory /v"),
    ],
)
def test_what_only_one_end_can_have(one: str, two: str, what: str | None) -> None:
    end = "belongs to a too (switch.s.ports[0]), and is for one end only; name another"
    told = [] if what is None else [f"switch.t.ports[0]: {what} {end}"]
    assert found(f"switch.s.ports = ['{one},name=a']\nswitch.t.ports = ['{two},name=b']") == told


@pytest.mark.parametrize(
    ("a", "b", "twice"), [("", "", False), ("", "persistent = true", True), ("persistent = true", "", True)]
)
def test_a_disk_of_two_vms(a: str, b: str, twice: bool) -> None:
    said = "vm.b.disk: disk /d belongs to a too (vm.a.disk), and a persistent disk is for one VM; give each its own"
    assert found(f"[vm.a]\ndisk = '/d'\n{a}\n[vm.b]\ndisk = '/d'\n{b}\n") == [said] * twice


def test_one_complaint_a_place() -> None:
    text = f"{LAN}vm.a.nic.eth0 = {{mac = '{MAC}', addr = ['10.0.0.5/24']}}\n"
    text += f"vm.b.nic.eth0 = {{mac = '{MAC}', addr = ['10.0.0.5/24']}}\n"
    text += "switch.t.ports = ['tap:t,name=x', 'tap:t,name=y']"
    assert [each.partition(" belongs")[0] for each in found(text)] == [
        "switch.t.ports[1]: device t",  # which has one MAC address, too
        f"vm.b.nic.eth0.mac: {MAC}",
        "vm.b.nic.eth0.addr[0]: 10.0.0.5",
    ]
