"""`parse_port` on arbitrary text, and its round trip with `format_port` on every spec."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_interface

from hypothesis import given
from hypothesis import strategies as st

from tests.property.ports.test_impairment import impairments
from vbackend.errors import ConfigError
from vbackend.ports.parse import format_port, parse_port
from vbackend.ports.spec import (
    Address,
    DgramMcastSpec,
    DgramUdpSpec,
    DgramUnixSpec,
    PortOptions,
    PortSpec,
    StreamSpec,
    TapSpec,
    TcpAddress,
    TunSpec,
    UnitSpec,
    UnixAddress,
    VdeSpec,
    VhostUserSpec,
)
from vbackend.tun.vocabulary import HEADERS, SYSTEMS

_KINDS = st.sampled_from(
    [
        "stream",
        "dgram",
        "socket",
        "vhost-user",
        "vde",
        "tap",
        "tun",
        "unit",
        "unix",
        "tcp",
        "udp",
        "mcast",
        "listen",
    ]
)
_SIGNS = st.sampled_from([":", ",", ",,", "=", "@", "[", "]", "::1", "127.0.0.1", "230.0.0.1", "1", "/a"])
_KEYS = st.sampled_from(["name", "mac", "queue", "addr", "peer", "dial", "multi", "pi", "header"])
_ALMOST = st.lists(st.one_of(_KINDS, _SIGNS, _KEYS, st.text(max_size=3)), max_size=14).map("".join)


@given(st.one_of(st.text(), _ALMOST))
def test_only_config_errors_and_only_one_line(text: str) -> None:
    match _outcome(text):
        case ConfigError() as error:
            assert len(str(error).splitlines()) == 1
        case spec:
            assert parse_port(format_port(spec)) == spec


def _outcome(text: str) -> PortSpec | ConfigError:
    try:
        return parse_port(text)
    except ConfigError as error:
        return error


_names = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,20}\Z")
_ports = st.integers(1, 65_535)
_v4 = st.integers(1, (223 << 24)).map(lambda number: str(IPv4Address(number)))
_v6 = st.integers(0, (1 << 128) - 1).map(lambda number: str(IPv6Address(number)))
_paths = st.text(
    st.characters(exclude_characters=":\0", exclude_categories=["Cs"]), min_size=1, max_size=25
).filter(lambda path: path != "@")
_macs = st.binary(min_size=5, max_size=5).map(lambda tail: b"\x52" + tail)


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@st.composite
def _options(draw: st.DrawFn) -> PortOptions:
    rate = draw(st.none() | st.integers(1, 10**12))
    return PortOptions(
        name=draw(st.none() | _names),
        queue=draw(st.none() | st.integers(1, 65_536)),
        queue_bytes=draw(st.none() | st.integers(69_632, 1 << 30)),
        mac=draw(st.none() | _macs),
        isolated=draw(st.booleans()),
        impairment=draw(impairments()),
        rate=rate,
        burst=None if rate is None else draw(st.none() | st.integers(1, 10**10)),
    )


@st.composite
def _streams(draw: st.DrawFn) -> StreamSpec:
    options, dial = draw(_options()), draw(st.booleans())
    multi = options.mac is None and not dial and draw(st.booleans())
    if draw(st.booleans()):
        path = draw(_paths)
        return StreamSpec(f"stream:unix:{path}", options, UnixAddress(path), dial, multi)
    if draw(st.booleans()):
        host, port, word = draw(_v4), draw(_ports), "connect" if dial else "listen"
        return StreamSpec(
            f"socket:{word}:{host}:{port}", options, TcpAddress(host, port), dial, multi, legacy=True
        )
    host, port = draw(_v4 | _v6), draw(_ports)
    return StreamSpec(f"stream:tcp:{_host(host)}:{port}", options, TcpAddress(host, port), dial, multi)


@st.composite
def _dgrams(draw: st.DrawFn) -> PortSpec:
    options, legacy = draw(_options()), draw(st.booleans())
    kind = "socket" if legacy else "dgram"
    match draw(st.sampled_from(["unix", "udp", "mcast"])):
        case "unix":
            local, remote = draw(st.lists(_paths, min_size=2, max_size=2, unique=True))
            return DgramUnixSpec(
                f"dgram:unix:{local}:{remote}", options, UnixAddress(local), UnixAddress(remote)
            )
        case "udp":
            host, (here, there) = draw(_v4), draw(st.lists(_ports, min_size=2, max_size=2, unique=True))
            text = f"{kind}:udp:{host}:{here}:{host}:{there}"
            return DgramUdpSpec(text, options, TcpAddress(host, here), TcpAddress(host, there), legacy)
        case _:
            group, port = f"239.{draw(st.integers(0, 255))}.0.1", draw(_ports)
            return DgramMcastSpec(
                f"{kind}:mcast:{group}:{port}", options, group, port, draw(st.none() | _v4), legacy
            )


@st.composite
def _devices(draw: st.DrawFn) -> PortSpec:
    options, ifname = draw(_options()), draw(st.from_regex(r"\A[a-z][a-z0-9,=-]{0,14}\Z"))
    netns, owner = draw(st.none() | _names), draw(st.none() | st.sampled_from(["alice", "1000"]))
    mtu = draw(st.none() | st.integers(68, 65_521))
    v4 = draw(st.lists(_v4, max_size=1))
    v6 = draw(st.lists(_v6, max_size=1))
    addresses: tuple[Address, ...] = tuple(ip_interface(address) for address in v4 + v6)
    if draw(st.booleans()):
        return TunSpec(
            f"tun:{ifname}", options, ifname, addresses, addresses, netns, owner, mtu, draw(st.booleans())
        )
    bridge = draw(st.none() | st.just("br0"))
    offloads = draw(st.booleans())
    return TapSpec(f"tap:{ifname}", options, ifname, addresses, bridge, netns, owner, mtu, offloads)


@st.composite
def _units(draw: st.DrawFn) -> UnitSpec:
    options, path = draw(_options()), draw(_paths)
    addresses, peers = (
        tuple(map(ip_interface, draw(st.lists(_v4, max_size=1)) + draw(st.lists(_v6, max_size=1))))
        for _ in range(2)
    )
    return UnitSpec(
        f"unit:{path}",
        options,
        UnixAddress(path),
        addresses,
        peers,
        draw(st.sampled_from(HEADERS)),
        draw(st.none() | st.integers(576, 65_535)),
        draw(st.sampled_from([None, "pointopoint", "broadcast"])),
        draw(st.sampled_from(SYSTEMS)),
    )


@st.composite
def _vhosts(draw: st.DrawFn) -> VhostUserSpec:
    options, path, on = draw(_options()), draw(_paths), st.booleans()
    return VhostUserSpec(
        f"vhost-user:{path}",
        options,
        UnixAddress(path),
        draw(on),
        draw(st.integers(1, 16)),
        draw(on),
        draw(on),
        draw(st.integers(0, 1_000_000)),
        draw(st.none() | st.integers(68, 65_535)),
    )


@st.composite
def _switches(draw: st.DrawFn) -> VdeSpec:
    options, path = replace(draw(_options()), mac=None), draw(_paths.filter(lambda path: path[0] != "@"))
    mode = draw(st.none() | st.sampled_from([0, 0o600, 0o660, 0o666]))
    return VdeSpec(f"vde:{path}", options, path, mode, draw(st.none() | st.sampled_from(["kvm", "1000"])))


@given(st.one_of(_streams(), _dgrams(), _devices(), _units(), _vhosts(), _switches()))
def test_every_spec_comes_back_from_its_text(spec: PortSpec) -> None:
    assert parse_port(format_port(spec)) == spec
