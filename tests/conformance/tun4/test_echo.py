"""A program for a tun device runs on a `TunFile` with nothing changed but its open call."""

import fcntl
import struct

import pytest

from tests.conformance.tun4.echo import answer, checksum, run
from tests.conformance.tun4.units import DEADLINE_S, LOCAL, PEER, Running, ipv4, open_unit
from tests.support.netns import Namespace, netns
from vbackend.host.netns import run_in_namespace
from vbackend.tun.driver import TunDriver

__all__ = ["netns"]

COUNT = 3
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h


def ping(number: int) -> bytes:
    """An echo request from the unit's own address to its peer."""
    body = struct.pack(">BBHHH", 8, 0, 0, 7, number) + b"payload"
    body = body[:2] + struct.pack(">H", checksum(body)) + body[4:]
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, 1, 0) + LOCAL.packed + PEER.packed
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + body


def test_on_a_tun_file() -> None:
    with TunDriver() as driver:
        unit, device = open_unit(driver, nonblocking=False)
        program = Running(lambda: run(device, COUNT))
        unit.output(ipv4())
        for number in range(COUNT):
            unit.output(ping(number))
        assert program.result() == 1
        for number in range(COUNT):
            reply = unit.input()
            assert reply is not None
            version, packet = reply
            assert (version, checksum(packet[:20]), checksum(packet[20:])) == (4, 0, 0)
            assert (packet[12:16], packet[16:20]) == (PEER.packed, LOCAL.packed)
            assert packet[20:] == b"\0\0" + packet[22:24] + ping(number)[24:]


@pytest.mark.root
def test_on_a_device_of_the_kernel(netns: Namespace) -> None:
    with run_in_namespace(netns.name, lambda: open("/dev/net/tun", "r+b", buffering=0)) as device:  # noqa: PTH123
        request = struct.pack("16sH22x", b"tun0", IFF_TUN | IFF_NO_PI)
        run_in_namespace(netns.name, lambda: fcntl.ioctl(device, TUNSETIFF, request))
        netns.ip("address", "add", str(LOCAL), "peer", str(PEER), "dev", "tun0")
        netns.ip("link", "set", "tun0", "up")
        program = Running(lambda: run(device, COUNT))
        said = netns.run("ping", "-n", "-c", str(COUNT), "-i", "0.02", "-w", str(int(DEADLINE_S)), str(PEER))
        assert program.result() >= 0
    assert f"{COUNT} received" in said


@pytest.mark.parametrize("packet", [b"", ipv4(), ping(0)[:27], b"\x60" + bytes(47)])
def test_what_is_no_ping_is_not_answered(packet: bytes) -> None:
    assert answer(packet) is None
