from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface

import pytest

from tests.support.netns import Namespace, netns
from vbackend.errors import ConfigError
from vbackend.host.device import check_ifname
from vbackend.host.ruleset import (
    Forward,
    NatConfig,
    gateway_ifname,
    gateway_port,
    parse_forward,
    resolve,
    ruleset,
    table_name,
    without_table,
)
from vbackend.ports.parse import parse_port
from vbackend.ports.spec import TapSpec

__all__ = ["netns"]

V4, V6 = IPv4Address("10.0.0.5"), IPv6Address("fd00::5")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tcp:8080:h1:80", Forward("tcp", None, 8080, "h1", 80)),
        ("udp:53:10.0.0.5:5353", Forward("udp", None, 53, "10.0.0.5", 5353)),
        ("tcp:8080:[fd00::5]:80", Forward("tcp", None, 8080, "fd00::5", 80)),
        ("tcp:127.0.0.1:8080:h1:80", Forward("tcp", ip_address("127.0.0.1"), 8080, "h1", 80)),
        ("tcp:[::]:8080:[fd00::5]:80", Forward("tcp", ip_address("::"), 8080, "fd00::5", 80)),
        ("tcp:65535:h1:1", Forward("tcp", None, 65535, "h1", 1)),
    ],
)
def test_forwards(text: str, expected: Forward) -> None:
    assert parse_forward(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "give tcp:PORT:GUEST:PORT"),
        ("sctp:1:h1:1", "give tcp:PORT:GUEST:PORT"),
        ("tcp:8080:h1", "give tcp:PORT:GUEST:PORT"),
        ("tcp:fd00::5:8080:h1:80", "give tcp:PORT:GUEST:PORT"),
        ("tcp:0:h1:80", "port 0 is none"),
        ("tcp:80:h1:65536", "port 65536 is none"),
        ("tcp:eth0:80:h1:80", "eth0 is no address of the host"),
        ("tcp:[::1]:80:h1:80", "give 127.0.0.1"),
    ],
)
def test_what_is_no_forward(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        parse_forward(text)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "known", "expected"),
    [
        ("tcp:80:h1:80", [V6, V4], (V4, V6)),
        ("tcp:80:h1:80", [V4, IPv4Address("10.0.0.6")], (V4,)),
        ("tcp:127.0.0.1:80:h1:80", [V6, V4], (V4,)),
        ("tcp:[::]:80:h1:80", [V6, V4], (V6,)),
        ("tcp:80:10.0.0.5:80", [], (V4,)),
    ],
)
def test_who_is_meant(
    text: str, known: list[IPv4Address | IPv6Address], expected: tuple[object, ...]
) -> None:
    assert resolve(parse_forward(text), lambda _: known) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tcp:80:h1:80", "forward to h1:80: no address of h1 is known; give the guest an addr="),
        ("tcp:[::]:80:10.0.0.5:80", "no IPv6 address of 10.0.0.5 is known"),
    ],
)
def test_who_is_not_known(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(parse_forward(text), lambda _: ())


@pytest.mark.parametrize(
    ("addresses", "versions"),
    [(["fd00::1/64", "10.0.0.1/24", "10.1.0.1/24"], (4, 6)), (["fd00::1/64"], (6,))],
)
def test_the_versions_that_are_translated(addresses: list[str], versions: tuple[int, ...]) -> None:
    assert NatConfig(tuple(map(ip_interface, addresses))).versions == versions


def test_the_gateway_is_a_port_with_a_name_of_its_own() -> None:
    config = NatConfig((ip_interface("10.0.0.1/24"), ip_interface("fd00::1/64")))
    spec = parse_port(gateway_port("two-routers", "lan", config))
    assert isinstance(spec, TapSpec)
    assert check_ifname(spec.ifname) == gateway_ifname("two-routers", "lan")
    assert spec.addresses == config.addr
    names = {gateway_ifname(lab, segment) for lab in ("a", "b", "a-b") for segment in ("lan", "b-lan", "wan")}
    assert len(names) == 9


def test_tables() -> None:
    assert table_name("two-routers", "lan") == "vbackend-two-routers.lan"
    for lab, segment, what in (
        ("a.b", "lan", "lab"),
        ("a", "", "switch"),
        ("a b", "lan", "lab"),
        ("a;", "b", "lab"),
    ):
        with pytest.raises(ConfigError, match=what):
            table_name(lab, segment)


@pytest.mark.parametrize("ifname", ["", 'a"', "a b", "a\n", "a" * 16])
def test_no_name_gets_between_the_rules(ifname: str) -> None:
    with pytest.raises(ConfigError, match="mistake"):
        ruleset("vbackend-a.b", ifname, (4,))


def test_the_rules_without_forwards() -> None:
    assert ruleset("vbackend-a.b", "tap0", (4,)) == (
        "add table inet vbackend-a.b\n"
        "delete table inet vbackend-a.b\n"
        "table inet vbackend-a.b {\n"
        "\tchain forward {\n"
        "\t\ttype filter hook forward priority filter; policy accept;\n"
        "\t\tmeta nfproto != { ipv4 } iifname \"tap0\" drop\n"
        "\t\tiifname \"tap0\" accept\n"
        "\t\toifname \"tap0\" ct state established,related accept\n"
        "\t\toifname \"tap0\" ct status dnat accept\n"
        "\t\toifname \"tap0\" drop\n"
        "\t}\n"
        "\tchain postrouting {\n"
        "\t\ttype nat hook postrouting priority srcnat; policy accept;\n"
        "\t\tiifname \"tap0\" oifname != \"tap0\" masquerade\n"
        "\t}\n"
        "}\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "target", "rule"),
    [
        (
            "tcp:8080:h1:80",
            V4,
            "meta nfproto ipv4 fib daddr type local tcp dport 8080 dnat ip to 10.0.0.5:80",
        ),
        (
            "tcp:8080:h1:80",
            V6,
            "ip6 daddr != ::1 fib daddr type local tcp dport 8080 dnat ip6 to [fd00::5]:80",
        ),
        (
            "udp:0.0.0.0:53:h1:53",
            V4,
            "meta nfproto ipv4 fib daddr type local udp dport 53 dnat ip to 10.0.0.5:53",
        ),
        ("udp:192.0.2.1:53:h1:53", V4, "ip daddr 192.0.2.1 udp dport 53 dnat ip to 10.0.0.5:53"),
        ("udp:[fd00::9]:53:h1:53", V6, "ip6 daddr fd00::9 udp dport 53 dnat ip6 to [fd00::5]:53"),
    ],
)
def test_the_rules_of_a_forward(text: str, target: IPv4Address | IPv6Address, rule: str) -> None:
    rules = ruleset("vbackend-a.b", "tap0", (4, 6), [(parse_forward(text), target)])
    assert f'\t\tiifname != "tap0" {rule}\n' in rules
    assert f"\t\t{rule}\n" in rules
    assert '\t\tiifname "tap0" ip daddr 127.0.0.0/8 drop\n' in rules
    assert '\t\toifname "tap0" ip saddr 127.0.0.0/8 masquerade\n' in rules


@pytest.mark.root
def test_nftables_takes_them(netns: Namespace) -> None:
    forwards = [(parse_forward(f"{p}:80:h1:80"), target) for p in ("tcp", "udp") for target in (V4, V6)]
    rules = ruleset("vbackend-a-1.b_2", "tap0", (4, 6), forwards)
    for text in (rules, rules, without_table("vbackend-a-1.b_2"), without_table("vbackend-a-1.b_2")):
        netns.run("sh", "-c", 'printf %s "$0" | nft -f -', text)
    assert netns.run("nft", "list", "ruleset") == ""
