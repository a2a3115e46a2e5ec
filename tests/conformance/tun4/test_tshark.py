"""Captures of units, and link headers of four systems in both byte orders, as tshark reads them."""

import shutil
import struct
import subprocess
from itertools import product
from pathlib import Path
from typing import Literal

import pytest

from tests.conformance.tun4.rules import rule
from tests.conformance.tun4.units import ipv4, ipv6, open_unit, outcome
from vbackend.capture import pcapng
from vbackend.dataplane import NativeCapture
from vbackend.tun.driver import TunDriver
from vbackend.tun.headers import LINKTYPES, ByteOrder, encode
from vbackend.tun.vocabulary import SYSTEMS, System

pytestmark = pytest.mark.skipif(
    shutil.which("tshark") is None, reason="needs tshark: `tools/dev setup` as root, or install it"
)

Link = Literal["null", "loop", "raw"]
LINK_TYPES = {"null": pcapng.LinkType.NULL, "loop": pcapng.LinkType.LOOP, "raw": pcapng.LinkType.RAW}
IN, OUT = "0x00000001", "0x00000002"  # epb_flags
V4, V6 = ["10.7.0.2", "", "17"], ["", "fd07::2", "17"]


def tshark(file: Path, *fields: str) -> list[list[str]]:
    """One row of fields per packet."""
    command = ["tshark", "-n", "-r", str(file), "-T", "fields", *[word for f in fields for word in ("-e", f)]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "cut short" not in done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


@rule("T2", "W6", "V4")
@pytest.mark.parametrize("link", ["null", "loop", "raw"])
def test_t2_w6_v4_captures_of_four_systems(driver: TunDriver, link: Link, tmp_path: Path) -> None:
    """One interface per system, in it both families in both directions, and a packet that was dropped."""
    capture = NativeCapture(len(SYSTEMS))
    for number, system in enumerate(SYSTEMS):
        unit, file = open_unit(driver, number, system=system, header="sockaddr", queue=2)
        unit.capture(capture, number, link=link)
        for packet in (ipv4(), ipv6(), ipv4()):
            outcome(unit.output, packet)
        for packet, family in ((ipv4(), 4), (ipv6(), 6)):
            file.write(encode("sockaddr", packet, family=family, system=system))
    interfaces = [pcapng.Interface(f"tun-{system}", "a unit", LINK_TYPES[link]) for system in SYSTEMS]
    path = tmp_path / "units.pcapng"
    path.write_bytes(pcapng.head("test", interfaces, 262_144, None) + capture.read(1 << 20))
    names = ("frame.interface_name", "frame.packet_flags_direction", "frame.comment")
    rows = tshark(path, "ip.src", "ipv6.src", "udp.dstport", *names)
    ip, ip6 = ["10.7.0.2", "", "9"], ["", "fd07::2", "9"]
    expected = [
        [*packet, f"tun-{system}", direction, comment]
        for system in SYSTEMS
        for packet, direction, comment in (
            (ip, OUT, ""),
            (ip6, OUT, ""),
            (ip, OUT, "dropped: queue-full"),
            (ip, IN, ""),
            (ip6, IN, ""),
        )
    ]
    assert rows == expected


@pytest.mark.parametrize("header", ["null", "loop"])
def test_link_headers_in_both_byte_orders(header: Literal["null", "loop"], tmp_path: Path) -> None:
    """pcap files as machines of either order write them: their own numbers and the family in the same order."""
    for order, sign in (("little", "<"), ("big", ">")):
        path = tmp_path / f"{order}.pcap"
        head = struct.pack(f"{sign}IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, LINKTYPES[header])
        each = product(SYSTEMS, (ipv4(), ipv6()))
        records = [_record(sign, _encoded(header, packet, system, order)) for system, packet in each]
        path.write_bytes(head + b"".join(records))
        rows = tshark(path, "ip.src", "ipv6.src", "ip.proto", "ipv6.nxt")
        assert [[v4, v6, proto or nxt] for v4, v6, proto, nxt in rows] == [V4, V6] * len(SYSTEMS)


def _encoded(header: Literal["null", "loop"], packet: bytes, system: System, order: str) -> bytes:
    byte_order: ByteOrder = "little" if order == "little" else "big"
    return encode(header, packet, family=packet[0] >> 4, system=system, order=byte_order)


def _record(sign: str, data: bytes) -> bytes:
    return struct.pack(f"{sign}IIII", 0, 0, len(data), len(data)) + data
