"""A tun port on a real device: guests speak Ethernet, the host bare IP."""

import asyncio
import os
import subprocess
from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from tests.support.accounting import assert_accounts
from tests.support.qemu_peers import DEADLINE_S, eventually
from vbackend.backend import Backend
from vbackend.ports.channel import Channel
from vbackend.ports.parse import parse_port
from vbackend.ports.unitport import link_local, stable_mac

GUEST = "52:54:00:00:00:01"
BROADCAST = "ff:ff:ff:ff:ff:ff"


def test_the_made_up_address_is_a_station_and_stable() -> None:
    addresses = {stable_mac(f"tun{number}") for number in range(100)}
    assert len(addresses) == 100
    assert all(len(mac) == 6 and mac[0] & 3 == 2 for mac in addresses)
    assert stable_mac("tun0") == stable_mac("tun0")


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def netns() -> Iterator[str]:
    name = f"vb-tun-{os.getpid()}"
    ip("netns", "add", name)
    yield name
    ip("netns", "delete", name)


async def recv(channel: Channel, layer: type[Packet], op: object) -> Packet:
    """The next frame with this layer, skipping what else the host says."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            got = await channel.recv()
            assert got is not None
            read = Ether(got)
            if layer in read and getattr(read[layer], "op", getattr(read[layer], "type", None)) == op:
                return read


@pytest.mark.root
@pytest.mark.parametrize("mac", [None, "52:54:00:00:00:77"])
async def test_a_guest_pings_the_host(netns: str, mac: str | None) -> None:
    adapter = mac or stable_mac("tun0").hex(":")
    async with Backend(name="test") as backend:
        text = f"tun:tun0,addr=10.98.0.1,peer=10.98.0.2,netns={netns}" + (f",mac={mac}" if mac else "")
        await backend.start([parse_port(text)])
        with await backend.open_channel("guest") as guest:
            question = ARP(op="who-has", hwsrc=GUEST, psrc="10.98.0.2", pdst="10.98.0.1")
            await guest.send(bytes(Ether(src=GUEST, dst=BROADCAST) / question))
            answer = await recv(guest, ARP, 2)
            assert (answer[ARP].hwsrc, answer[ARP].psrc) == (adapter, "10.98.0.1")
            ping = IP(src="10.98.0.2", dst="10.98.0.1") / ICMP(id=7) / b"hello"
            await guest.send(bytes(Ether(src=GUEST, dst=adapter) / ping))
            reply = await recv(guest, ICMP, 0)
            assert (reply.src, reply.dst, reply[ICMP].id) == (adapter, GUEST, 7)
            assert_accounts(backend.snapshot())
    assert "tun0" not in ip("-n", netns, "link")


@pytest.mark.root
@pytest.mark.parametrize(("key", "header"), [("", "none"), (",pi", "pi")])
async def test_its_unit_can_be_seen(netns: str, key: str, header: str) -> None:
    async with Backend(name="test") as backend:
        text = f"tun:tun0,addr=10.98.0.1,peer=10.98.0.2,addr=fd98::1,netns={netns},mtu=9000,queue=7{key}"
        await backend.start([parse_port(text)])
        (port,) = backend.snapshot().ports
        unit = port.unit
        assert unit is not None
        own = str(link_local(stable_mac("tun0")))
        assert unit.addresses == ("10.98.0.1 -> 10.98.0.2", "fd98::1", own)
        assert set(unit.flags) == {"OPEN", "INITED", "IASET", "DSTADDR"}
        assert set(unit.if_flags) == {"UP", "POINTOPOINT", "RUNNING"}
        assert (unit.mtu, unit.mode, unit.header, unit.family) == (9000, "pointopoint", header, "linux")
        assert (unit.queue_limit, unit.counters["oerrors"]) == (7, 0)
        with await backend.open_channel("guest") as guest:
            adapter = stable_mac("tun0").hex(":")
            ping = IP(src="10.98.0.2", dst="10.98.0.1") / ICMP(id=7) / b"hello"
            await guest.send(bytes(Ether(src=GUEST, dst=adapter) / ping))
            reply = await recv(guest, ICMP, 0)
            assert bytes(reply[IP].payload)[8:13] == b"hello"
            head = 4 if header == "pi" else 0
            (port, _) = backend.snapshot().ports
            assert port.unit is not None
            counters = port.unit.counters
            assert counters["opackets"] == 1
            assert counters["obytes"] == len(ping) + head
            assert counters["ipackets"] >= 1  # and what the host says by itself


@pytest.mark.root
@pytest.mark.parametrize("key", ["", ",pi"])
async def test_a_device_that_is_taken_away_fails_the_port_and_closes_the_unit(netns: str, key: str) -> None:
    async with Backend(name="test") as backend:
        await backend.start([parse_port(f"tun:tun0,addr=10.98.0.1,peer=10.98.0.2,netns={netns}{key}")])
        ip("-n", netns, "link", "delete", "tun0")
        await eventually(lambda: backend.snapshot().ports[0].state == "failed", "the port fails")
        (port,) = backend.snapshot().ports
        assert "the device is gone" in port.last_end
        assert port.unit is not None
        assert set(port.unit.flags) == {"INITED", "IASET", "DSTADDR"}
        assert "UP" not in port.unit.if_flags
        await backend.remove_port("tun0")
        await backend.add_port(parse_port(f"tun:tun0,netns={netns}{key}"))
        assert backend.snapshot().ports[0].state == "connected"
