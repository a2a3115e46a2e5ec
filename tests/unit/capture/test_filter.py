"""Filters: what libpcap says, and that the engine's machine decides as libpcap's own."""

import ctypes
import random
from typing import Any

import pytest

from tests.support.frames import frame, mac, vlan_frame
from tests.support.pcapng import parse
from vbackend.capture import filter as filter_module
from vbackend.capture.filter import FrameFilter, compile_filter, libpcap_version
from vbackend.capture.pcapng import Interface, LinkType, head
from vbackend.dataplane import Dataplane, NativeCapture
from vbackend.errors import ConfigError, HostError

EXPRESSIONS = [
    "ip",
    "ip6",
    "arp",
    "icmp",
    "tcp port 80",
    "udp dst portrange 1000-40000",
    "host 10.0.0.1",
    "src net 10.0.0.0/8 and not port 22",
    "ether src 52:54:00:00:00:01",
    "ether broadcast or multicast",
    "vlan 7 and ip",
    "less 100",
    "greater 60",
    "len % 7 == 3",
    "ether[12:4] & 0xff != 0",
    "ip[8] / ip[9] > 3",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
    "ip6 and udp port 53",
    "ether proto 0x88b5",
    "link[0] == 1 or ether[len - 1] = 0",
]


def packets(count: int) -> list[bytes]:
    """Frames that the expressions can tell apart: headers that are right, bodies that are random."""
    dice = random.Random(1)
    found = []
    for _ in range(count):
        size = dice.choice([0, 6, 20, 40, 90, 300])
        body = bytearray(dice.randbytes(size))
        kind = dice.choice([0x0800, 0x0800, 0x86DD, 0x0806, 0x88B5])
        if kind == 0x0800 and size >= 20:
            body[0] = 0x45
            body[6:8] = b"\0\0"
            body[9] = dice.choice([1, 6, 17, 0])
            body[12:16] = dice.choice([b"\x0a\0\0\1", b"\xc0\xa8\0\1"])
            body[20:24] = dice.choice([b"\0\x50\x10\0", b"\0\x16\0\x50", bytes(body[20:24])])[: size - 20]
        if kind == 0x86DD and size >= 40:
            body[0:1], body[6:7] = b"\x60", b"\x11"
        to = dice.choice([b"\xff" * 6, mac(2), b"\1\0\x5e\0\0\1"])
        if dice.random() < 0.1:
            found.append(vlan_frame(to, mac(1), 7, bytes(body)))
        else:
            found.append(frame(to, mac(dice.randrange(3)), bytes(body), ethertype=kind))
    return found


class PacketHeader(ctypes.Structure):
    """`struct pcap_pkthdr` of libpcap on 64-bit Linux."""

    _fields_ = [
        ("seconds", ctypes.c_long),
        ("micros", ctypes.c_long),
        ("caplen", ctypes.c_uint32),
        ("len", ctypes.c_uint32),
    ]


def libpcap_verdicts(expression: str, frames: list[bytes]) -> list[int]:
    """What `pcap_offline_filter` says."""
    library: Any = filter_module._library()
    program = filter_module._Program()
    handle = library.pcap_open_dead(1, 262_144)
    assert library.pcap_compile(handle, program, expression.encode(), 1, 0xFFFF_FFFF) == 0
    found = []
    for one in frames:
        header = PacketHeader(0, 0, len(one), len(one))
        found.append(library.pcap_offline_filter(ctypes.byref(program), ctypes.byref(header), one))
    library.pcap_freecode(program)
    library.pcap_close(handle)
    return found


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_the_engine_decides_as_libpcap(expression: str) -> None:
    frames = packets(300)
    program = compile_filter(expression, LinkType.ETHERNET, 262_144)
    sink = NativeCapture(1)
    with Dataplane() as dataplane:
        segment = dataplane.add_switch()
        port = dataplane.add_port(queue_frames=4096)
        dataplane.join(port, segment)
        channel = dataplane.attach_channel(port)
        dataplane.capture(port, sink, 0, snaplen=262_144, program=program)
        for one in frames:
            while not channel.send(one):
                dataplane.counters(port)
        dataplane.detach(port)
    capture = parse(head("test", [Interface("a", "a")], 262_144, expression) + sink.read(1 << 24))
    wanted = [
        one for one, verdict in zip(frames, libpcap_verdicts(expression, frames), strict=True) if verdict
    ]
    assert [packet.data for packet in capture.packets] == wanted
    assert sink.counts() == [(len(frames), len(wanted), 0)]


@pytest.mark.parametrize(
    ("expression", "link_type"),
    [("host", LinkType.ETHERNET), ("ether host 1:2:3:4:5:6", LinkType.RAW), ("((", LinkType.NULL)],
)
def test_errors_are_libpcaps_with_a_hint(expression: str, link_type: LinkType) -> None:
    with pytest.raises(ConfigError) as caught:
        compile_filter(expression, link_type, 100)
    assert str(caught.value).startswith(f"filter {expression!r}: ")
    assert str(caught.value).endswith("; see man pcap-filter for the language")


@pytest.mark.parametrize("expression", ["ip\0", "ip \udcff", "ip or " * 4000 + "ip"])
def test_what_no_library_should_see_is_refused(expression: str) -> None:
    with pytest.raises(ConfigError, match="too long, or not text"):
        compile_filter(expression, LinkType.ETHERNET, 100)


@pytest.mark.parametrize("link_type", list(LinkType))
def test_every_link_type_has_ip(link_type: LinkType) -> None:
    program = compile_filter("ip", link_type, 77)
    assert (0x06, 0, 0, 77) in program
    assert program != compile_filter("ip6", link_type, 77)


def test_without_the_library_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert libpcap_version().startswith("libpcap version 1.")
    monkeypatch.setattr(filter_module, "_SONAME", "libnothing.so.9")
    filter_module._library.cache_clear()
    try:
        with pytest.raises(HostError, match=r"there is no libnothing\.so\.9; .*Debian: libpcap0\.8"):
            compile_filter("ip", LinkType.ETHERNET, 100)
    finally:
        filter_module._library.cache_clear()


def test_a_filter_for_single_frames() -> None:
    wanted = FrameFilter("ether src 52:54:00:00:00:01 and greater 60")
    assert wanted.matches(frame(mac(2), mac(1), size=60))
    assert not wanted.matches(frame(mac(2), mac(1), size=59))
    assert not wanted.matches(frame(mac(1), mac(2), size=60))
    with pytest.raises(ConfigError, match="'sense'"):
        FrameFilter("sense")
