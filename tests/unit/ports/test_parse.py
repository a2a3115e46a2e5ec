"""The PORT grammar as a table: what each text means, and the one line each mistake gets."""

from ipaddress import ip_interface

import pytest

from vbackend.errors import ConfigError
from vbackend.ports.impairment import Gilbert, Impairment
from vbackend.ports.parse import format_port, parse_port
from vbackend.ports.spec import (
    ChannelSpec,
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

NONE = PortOptions()
MAC = bytes.fromhex("525400123456")
A = UnixAddress("/tmp/a.sock")
LOOP = TcpAddress("127.0.0.1", 5555)
LOOP2 = TcpAddress("127.0.0.1", 5556)

GOOD: list[tuple[str, PortSpec]] = [
    ("stream:unix:/tmp/a.sock", StreamSpec("stream:unix:/tmp/a.sock", NONE, A)),
    ("stream:unix:/tmp/a.sock,dial", StreamSpec("stream:unix:/tmp/a.sock", NONE, A, dial=True)),
    ("stream:unix:/tmp/a.sock,multi", StreamSpec("stream:unix:/tmp/a.sock", NONE, A, multi=True)),
    ("stream:unix:@a", StreamSpec("stream:unix:@a", NONE, UnixAddress("@a"))),
    ("stream:unix:/a:b", StreamSpec("stream:unix:/a:b", NONE, UnixAddress("/a:b"))),
    ("stream:unix:/a,,b", StreamSpec("stream:unix:/a,b", NONE, UnixAddress("/a,b"))),
    ("stream:unix:/a,,,dial", StreamSpec("stream:unix:/a,", NONE, UnixAddress("/a,"), dial=True)),
    ("stream:unix:" + "x" * 107, StreamSpec("stream:unix:" + "x" * 107, NONE, UnixAddress("x" * 107))),
    ("stream:tcp:127.0.0.1:5555", StreamSpec("stream:tcp:127.0.0.1:5555", NONE, LOOP)),
    ("stream:tcp:127.0.0.1:0", StreamSpec("stream:tcp:127.0.0.1:0", NONE, TcpAddress("127.0.0.1", 0))),
    ("stream:tcp:[::1]:1", StreamSpec("stream:tcp:[::1]:1", NONE, TcpAddress("::1", 1))),
    (
        "stream:tcp:[fe80::1%eth0]:1",
        StreamSpec("stream:tcp:[fe80::1%eth0]:1", NONE, TcpAddress("fe80::1%eth0", 1)),
    ),
    ("stream:tcp:vm-host.lan:1", StreamSpec("stream:tcp:vm-host.lan:1", NONE, TcpAddress("vm-host.lan", 1))),
    (
        "stream:unix:/tmp/a.sock,name=g.1,mac=52-54-00-12-34-56,queue=8,queue-bytes=70000,isolated",
        StreamSpec("stream:unix:/tmp/a.sock", PortOptions("g.1", 8, 70_000, MAC, isolated=True), A),
    ),
    (
        "stream:unix:/tmp/a.sock,delay=50ms,loss=gilbert:p=1%,,r=10%,seed=7",
        StreamSpec(
            "stream:unix:/tmp/a.sock",
            PortOptions(impairment=Impairment(delay=50_000, loss=Gilbert(0.01, 0.1), seed=7)),
            A,
        ),
    ),
    ("dgram:unix:/tmp/a.sock:@r", DgramUnixSpec("dgram:unix:/tmp/a.sock:@r", NONE, A, UnixAddress("@r"))),
    (
        "dgram:udp:127.0.0.1:5555:127.0.0.1:5556",
        DgramUdpSpec("dgram:udp:127.0.0.1:5555:127.0.0.1:5556", NONE, LOOP, LOOP2),
    ),
    (
        "dgram:udp:[::1]:1:localhost:2",
        DgramUdpSpec("dgram:udp:[::1]:1:localhost:2", NONE, TcpAddress("::1", 1), TcpAddress("localhost", 2)),
    ),
    ("dgram:mcast:230.0.0.1:1234", DgramMcastSpec("dgram:mcast:230.0.0.1:1234", NONE, "230.0.0.1", 1234)),
    (
        "dgram:mcast:230.0.0.1:1234,local=127.0.0.1",
        DgramMcastSpec("dgram:mcast:230.0.0.1:1234", NONE, "230.0.0.1", 1234, "127.0.0.1"),
    ),
    ("socket:listen:127.0.0.1:5555", StreamSpec("socket:listen:127.0.0.1:5555", NONE, LOOP, legacy=True)),
    (
        "socket:connect:127.0.0.1:5555",
        StreamSpec("socket:connect:127.0.0.1:5555", NONE, LOOP, dial=True, legacy=True),
    ),
    (
        "socket:udp:127.0.0.1:5555:127.0.0.1:5556",
        DgramUdpSpec("socket:udp:127.0.0.1:5555:127.0.0.1:5556", NONE, LOOP, LOOP2, legacy=True),
    ),
    (
        "socket:mcast:230.0.0.1:9",
        DgramMcastSpec("socket:mcast:230.0.0.1:9", NONE, "230.0.0.1", 9, legacy=True),
    ),
    ("vhost-user:/tmp/a.sock", VhostUserSpec("vhost-user:/tmp/a.sock", NONE, A)),
    ("vhost-user:@a,dial", VhostUserSpec("vhost-user:@a", NONE, UnixAddress("@a"), dial=True)),
    (
        "vhost-user:/tmp/a.sock,queues=1,packed=on,offloads=on,busy-poll=0",
        VhostUserSpec("vhost-user:/tmp/a.sock", NONE, A),
    ),
    (
        "vhost-user:/tmp/a.sock,queues=4,packed=off,offloads=off,busy-poll=50,mtu=9000,queue=8",
        VhostUserSpec(
            "vhost-user:/tmp/a.sock",
            PortOptions(queue=8),
            A,
            queues=4,
            packed=False,
            offloads=False,
            busy_poll=50,
            mtu=9000,
        ),
    ),
    ("vde:/tmp/sw", VdeSpec("vde:/tmp/sw", NONE, "/tmp/sw")),
    (
        "vde:sw,mode=660,group=kvm,queue=8",
        VdeSpec("vde:sw", PortOptions(queue=8), "sw", mode=0o660, group="kvm"),
    ),
    ("tap:tap0", TapSpec("tap:tap0", NONE, "tap0")),
    (
        "tap:t0,addr=10.0.0.1/24,addr=fd00::1/64,bridge=br0,netns=lab,owner=alice,mtu=9000,mac=52:54:00:12:34:56",
        TapSpec(
            "tap:t0",
            PortOptions(mac=MAC),
            "t0",
            (ip_interface("10.0.0.1/24"), ip_interface("fd00::1/64")),
            "br0",
            "lab",
            "alice",
            9000,
        ),
    ),
    (
        "tun:tun0,addr=10.0.0.1,peer=10.0.0.2,addr=fd00::1,peer=fd00::2,netns=lab,owner=1000,mtu=1400",
        TunSpec(
            "tun:tun0",
            NONE,
            "tun0",
            (ip_interface("10.0.0.1"), ip_interface("fd00::1")),
            (ip_interface("10.0.0.2"), ip_interface("fd00::2")),
            "lab",
            "1000",
            1400,
        ),
    ),
    ("tun:tun0,pi", TunSpec("tun:tun0", NONE, "tun0", packet_info=True)),
    ("unit:/tmp/a.sock", UnitSpec("unit:/tmp/a.sock", NONE, A)),
    ("unit:@a", UnitSpec("unit:@a", NONE, UnixAddress("@a"))),
    ("unit:" + "x" * 100, UnitSpec("unit:" + "x" * 100, NONE, UnixAddress("x" * 100))),
    ("unit:/tmp/a.sock,header=none,family=netbsd", UnitSpec("unit:/tmp/a.sock", NONE, A)),
    (
        "unit:/tmp/a.sock,addr=10.0.0.1,addr=fd00::1/64,peer=10.0.0.2,header=sockaddr,mtu=9000,queue=8,"
        "mode=broadcast,family=freebsd",
        UnitSpec(
            "unit:/tmp/a.sock",
            PortOptions(queue=8),
            A,
            (ip_interface("10.0.0.1"), ip_interface("fd00::1/64")),
            (ip_interface("10.0.0.2"),),
            "sockaddr",
            9000,
            "broadcast",
            "freebsd",
        ),
    ),
]

# (text, words the error line must have: what is wrong, what would be right)
BAD: list[tuple[str, tuple[str, ...]]] = [
    ("", ("''", "stream")),
    ("strem:unix:/a", ("'strem'", "did you mean 'stream'")),
    ("xdp:/a", ("'xdp'", "there are stream, dgram, socket, vhost-user, vde, tap, tun")),
    ("vde:", ("where", "vde:DIR")),
    ("vde:@sw", ("'@sw'", "has a directory, e.g. /tmp/vde.ctl")),
    ("vde:" + "x" * 104, ("DIR/ctl", "108 bytes long")),
    ("vde:/sw,mode=rw", ("mode is 'rw'", "0660")),
    ("vde:/sw,mode=0777", ("mode is '0777'", "read and write")),
    ("vde:/sw,group=a/b", ("'a/b'", "a group's name nor a number")),
    ("vde:/sw,mac=52:54:00:12:34:56", ("many guests", "leave it out")),
    ("vde:/sw,multi", ("'multi'", "vde")),
    ("vhost:/a", ("'vhost'", "did you mean 'vhost-user'")),
    ("vhost-user", ("where", "vhost-user:PATH")),
    ("vhost-user:@", ("empty", "/tmp/a.sock")),
    ("vhost-user:/a,multi", ("'multi'", "vhost-user")),
    ("vhost-user:/a,dial=on", ("takes no value",)),
    ("vhost-user:/a,queues=0", ("queues is '0'", "1 to 16")),
    ("vhost-user:/a,queues=17", ("1 to 16",)),
    ("vhost-user:/a,packed", ("'packed' needs a value",)),
    ("vhost-user:/a,packed=yes", ("packed is 'yes'", "one of on, off")),
    ("vhost-user:/a,offloads=1", ("offloads is '1'", "one of on, off")),
    ("vhost-user:/a,busy-poll=1000001", ("0 to 1000000",)),
    ("vhost-user:/a,mtu=67", ("68 to 65535",)),
    ("stream", ("where", "stream:unix:PATH")),
    ("tap:", ("where", "tap:IFNAME")),
    ("stream:unxi:/a", ("'unxi'", "did you mean 'unix'")),
    ("stream:unix:", ("empty", "/tmp/a.sock")),
    ("stream:unix:@", ("empty",)),
    ("stream:unix:/a\0b", ("NUL",)),
    ("stream:unix:" + "x" * 108, ("108 bytes", "107")),
    ("stream:unix:/\ud800", ("file name",)),
    ("stream:unix:/a,", ("empty option", '",,"')),
    ("stream:unix:/a,dail", ("'dail'", "did you mean 'dial'")),
    ("stream:unix:/a,zz=1", ("'zz'", "there are dial, multi, name")),
    ("stream:unix:/a,dial=on", ("takes no value", "just 'dial'")),
    ("stream:unix:/a,name", ("needs a value", "name=VALUE")),
    ("stream:unix:/a,name=,queue=1", ("'name' needs a value",)),
    ("stream:unix:/a,name=a,name=b", ("'name' is given 2 times",)),
    ("stream:unix:/a,multi,dial", ("'multi'", "listen")),
    ("socket:connect:127.0.0.1:1,multi", ("'multi'", "socket:connect")),
    ("stream:unix:/a,multi,mac=52:54:00:12:34:56", ("'multi'", "mac=")),
    ("stream:unix:/a,queue=0", ("queue is '0'", "1 to 65536")),
    ("stream:unix:/a,queue=" + "9" * 5000, ("1 to 65536",)),
    ("stream:unix:/a,queue=٣", ("1 to 65536",)),
    ("stream:unix:/a,queue-bytes=100", ("69632",)),
    ("stream:unix:/a,rate=0", ("rate is '0'", "10M")),
    ("stream:unix:/a,burst=64k", ("'burst'", "without a rate", "rate=10M")),
    ("stream:unix:/a,delay=5", ("delay is '5'", "50ms")),
    ("stream:unix:/a,reorder=1%", ("reorder is of no use without a delay",)),
    ("stream:unix:/a,loss=gilbert:p=1%,r=1%", ("'r' is no option",)),
    ("stream:unix:/a,mac=52:54:00", ("six hexadecimal pairs",)),
    ("stream:unix:/a,mac=53:54:00:12:34:56", ("group address",)),
    ("stream:unix:/a,mac=00:00:00:00:00:00", ("no station's",)),
    ("stream:unix:/a,name=-x", ("letters",)),
    ("stream:tcp:127.0.0.1", ("stream:tcp:HOST:PORT",)),
    ("stream:tcp::1:5555", ("brackets",)),
    ("stream:tcp:[::1:5555", ("brackets", "do not match")),
    ("stream:tcp:]::1[:5555", ("brackets", "do not match")),
    ("stream:tcp:[::g]:5555", ("not an IPv6 address",)),
    ("stream:tcp::5555", ("host is missing", "0.0.0.0")),
    ("stream:tcp:300.1.1.1:1", ("not an IPv4 address",)),
    ("stream:tcp:a b:1", ("not a host",)),
    ("stream:tcp:127.0.0.1:65536", ("0 to 65535",)),
    ("stream:tcp:127.0.0.1:0,dial", ("1 to 65535",)),
    ("dgram:unix:/a", ("LOCAL:REMOTE",)),
    ("dgram:unix:/a:/b:/c", ("LOCAL:REMOTE",)),
    ("dgram:unix:/a:/a", ("the same",)),
    ("dgram:unix:/a:", ("the remote path is empty",)),
    ("dgram:unix:/a:/b,dial", ("'dial'",)),
    ("dgram:udp:127.0.0.1:1:127.0.0.1", ("dgram:udp:LHOST:LPORT:RHOST:RPORT",)),
    ("dgram:udp:127.0.0.1:1:127.0.0.1:1", ("the same",)),
    ("dgram:udp:127.0.0.1:1:[::1]:2", ("mixes IPv4 and IPv6",)),
    ("dgram:mcast:10.0.0.1:1", ("not a multicast group", "224.0.0.0")),
    ("dgram:mcast:[ff02::1]:1", ("IPv6",)),
    ("dgram:mcast:230.0.0.1:1,local=eth0", ("IPv4 address of this host",)),
    ("dgram:mcats:230.0.0.1:1", ("did you mean 'mcast'",)),
    ("socket:listn:127.0.0.1:1", ("did you mean 'listen'",)),
    ("socket:listen:[::1]:1", ("IPv6", "stream:tcp")),
    ("socket:udp:[::1]:1:[::1]:2", ("IPv6", "dgram:udp")),
    ("tap:" + "x" * 16, ("interface's name", "15")),
    ("tap:a b", ("interface's name",)),
    ("tap:..", ("interface's name",)),
    ("tap:t0,addr=10.0.0.1", ("no prefix length", "10.0.0.1/24")),
    ("tap:t0,addr=fd00::1", ("fd00::1/64",)),
    ("tap:t0,addr=ten", ("10.0.0.1/24",)),
    ("tap:t0,addr=fe80::1%x/64", ("zone",)),
    ("tap:t0,peer=10.0.0.1", ("'peer'", "tap")),
    ("tap:t0,netns=a/b", ("namespace",)),
    ("tap:t0,owner=a b", ("user",)),
    ("tap:t0,mtu=67", ("68 to 65521",)),
    ("tun:t0,bridge=br0", ("'bridge'", "tun")),
    ("tun:t0,addr=10.0.0.1,addr=10.0.0.2", ("'addr' is given twice", "one IPv4")),
    ("tun:t0,peer=x", ("IPv4 or IPv6",)),
    ("tun:t0,pi=on", ("takes no value", "just 'pi'")),
    ("tap:t0,pi", ("'pi'", "tap")),
    ("unit:", ("where", "unit:PATH")),
    ("unit:@", ("empty",)),
    ("unit:" + "x" * 101, ("PATH.errors", "108 bytes", "107")),
    ("unit:/a,header=ppp", ("header is 'ppp'", "none, null, loop, sockaddr, pi, ether")),
    ("unit:/a,family=hurd", ("family is 'hurd'", "netbsd")),
    ("unit:/a,mode=p2p", ("mode is 'p2p'", "pointopoint, broadcast")),
    ("unit:/a,mtu=575", ("576 to 65535",)),
    ("unit:/a,addr=10.0.0.1,addr=10.0.0.2", ("'addr' is given twice",)),
    ("unit:/a,netns=lab", ("'netns'", "unit")),
]


@pytest.mark.parametrize(("text", "spec"), GOOD, ids=[text[:40] for text, _ in GOOD])
def test_a_port_means_what_the_table_says(text: str, spec: PortSpec) -> None:
    assert parse_port(text) == spec
    assert parse_port(format_port(spec)) == spec


@pytest.mark.parametrize(("text", "words"), BAD, ids=[repr(text[:40]) for text, _ in BAD])
def test_a_mistake_gets_one_line_that_helps(text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_port(text)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    assert line.startswith("port ")
    for word in words:
        assert word in line


def test_a_long_argument_is_shortened_in_its_error() -> None:
    with pytest.raises(ConfigError, match=r"\.\.\.': ") as caught:
        parse_port("tap:t0," + "x" * 4000)
    assert len(str(caught.value)) < 4400


def test_a_channel_has_a_text_only_for_humans() -> None:
    assert format_port(ChannelSpec("channel:probe", PortOptions(name="probe"))) == "channel:probe,name=probe"
