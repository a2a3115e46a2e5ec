"""Derived names, and how they stay unique."""

import pytest

from vbackend.errors import ConfigError
from vbackend.ports.names import child_name, derived_name, inner_name, is_inner, names_for, unique_name
from vbackend.ports.parse import parse_port
from vbackend.ports.spec import ChannelSpec, PortOptions

NAMES = [
    ("stream:unix:/tmp/a.sock", "a"),
    ("stream:unix:/tmp/a", "a"),
    ("stream:unix:@guest/1", "1"),
    ("stream:unix:/tmp/two words!.sock", "two-words"),
    ("stream:unix:/tmp/.sock", "unix"),
    ("stream:unix:/tmp/ü", "unix"),
    ("stream:tcp:127.0.0.1:5555", "tcp-5555"),
    ("socket:connect:127.0.0.1:5555", "tcp-5555"),
    ("dgram:unix:/tmp/l.sock:/tmp/r.sock", "l"),
    ("dgram:udp:127.0.0.1:1:127.0.0.1:2", "udp-1"),
    ("dgram:mcast:230.0.0.1:7", "mcast-7"),
    ("tap:tap0", "tap0"),
    ("tun:tun0", "tun0"),
    ("vhost-user:/tmp/v.sock,dial", "v"),
    ("vhost-user:@guest/1", "1"),
    ("unit:/tmp/u.sock", "u"),
    ("unit:@probe", "probe"),
    ("vde:/run/vde.ctl", "vde.ctl"),
    ("vde:/", "vde"),
]


@pytest.mark.parametrize(("text", "name"), NAMES)
def test_a_name_comes_from_the_place(text: str, name: str) -> None:
    assert derived_name(parse_port(text)) == name
    assert parse_port(f"tap:t,name={name}").options.name == name


def test_a_channel_has_a_name_too() -> None:
    assert derived_name(ChannelSpec("channel", PortOptions())) == "channel"


def test_a_suffix_makes_it_unique() -> None:
    assert unique_name("a", set()) == "a"
    assert unique_name("a", {"a"}) == "a-2"
    assert unique_name("a", {"a", "a-2", "a-4"}) == "a-3"


def test_given_names_come_before_derived_ones() -> None:
    specs = [parse_port(text) for text in ("stream:unix:/tmp/a.sock", "tap:t,name=a", "stream:unix:/x/b")]
    assert names_for(specs, ["b"]) == ["a-2", "a", "b-2"]
    for taken, again in (["a"], specs), ([], [specs[1], specs[1]]):
        with pytest.raises(ConfigError, match="port 'tap:t': the name 'a' is taken; give another name="):
            names_for(again, taken)


def test_the_smallest_number_is_used_again() -> None:
    assert child_name("vms", {"vms"}) == "vms.1"
    assert child_name("vms", {"vms", "vms.1", "vms.3"}) == "vms.2"


def test_inner_names_are_nobody_elses() -> None:
    assert inner_name("lan:up", "core") == "lan:up@core"
    assert is_inner("lan:up@core")
    assert not any(is_inner(name) for _, name in NAMES)
    with pytest.raises(ConfigError, match="name"):
        parse_port("tap:t,name=a@b")
