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
from tests.support.qemu_peers import DEADLINE_S
from vbackend.backend import Backend
from vbackend.ports.channel import Channel
from vbackend.ports.parse import parse_port
from vbackend.ports.unitport import stable_mac

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
