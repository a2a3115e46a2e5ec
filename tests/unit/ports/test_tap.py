"""A tap port on a real device, in a namespace of its own."""

import asyncio
import os
import subprocess
from collections.abc import Iterator

import pytest
from scapy.layers.l2 import ARP, Ether

from tests.support.accounting import assert_accounts
from tests.support.qemu_peers import DEADLINE_S, eventually
from vbackend.backend import Backend
from vbackend.ports.parse import parse_port

pytestmark = pytest.mark.root

GUEST = "52:54:00:00:00:01"


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def netns() -> Iterator[str]:
    name = f"vb-tap-{os.getpid()}"
    ip("netns", "add", name)
    yield name
    ip("netns", "delete", name)


async def test_the_host_answers_and_the_device_goes(netns: str) -> None:
    before = ip("-n", netns, "-br", "link")
    async with Backend(name="test") as backend:
        text = f"tap:tap0,addr=10.99.0.1/24,netns={netns},mac=52:54:00:00:00:99"
        await backend.start([parse_port(text)])
        (port,) = backend.snapshot().ports
        assert (port.name, port.kind, port.state) == ("tap0", "tap", "connected")
        assert port.session is not None
        assert port.session.peer == f"tap0 (namespace {netns})"
        with await backend.open_channel("guest") as guest:
            question = ARP(op="who-has", hwsrc=GUEST, psrc="10.99.0.2", pdst="10.99.0.1")
            await guest.send(bytes(Ether(src=GUEST, dst="ff:ff:ff:ff:ff:ff") / question))
            async with asyncio.timeout(DEADLINE_S):
                got = await guest.recv()
                while got is not None and ARP not in Ether(got):  # the host's own neighbour discovery
                    got = await guest.recv()
            assert got is not None
            assert Ether(got)[ARP].hwsrc == "52:54:00:00:00:99"
            assert_accounts(backend.snapshot())
    assert ip("-n", netns, "-br", "link") == before


async def test_a_device_that_is_taken_away_fails_the_port_only(netns: str) -> None:
    async with Backend(name="test") as backend:
        await backend.start([parse_port(f"tap:tap0,netns={netns}"), parse_port(f"tap:tap1,netns={netns}")])
        ip("-n", netns, "link", "delete", "tap0")
        await eventually(lambda: backend.snapshot().ports[0].state == "failed", "the port fails")
        first, second = backend.snapshot().ports
        assert "the device is gone" in first.last_end
        assert second.state == "connected"
        await backend.remove_port("tap0")
        await backend.add_port(parse_port(f"tap:tap0,netns={netns}"))
        assert [port.state for port in backend.snapshot().ports] == ["connected", "connected"]


@pytest.mark.parametrize("premade", [False, True])
async def test_the_carrier_goes_with_the_port_and_with_its_link(netns: str, premade: bool) -> None:
    def flags() -> list[str]:
        return ip("-n", netns, "-o", "link", "show", "tap0").partition("<")[2].partition(">")[0].split(",")

    def lost() -> bool:
        assert "UP" in flags()
        return "LOWER_UP" not in flags()

    if premade:
        ip("-n", netns, "tuntap", "add", "dev", "tap0", "mode", "tap")
    async with Backend(name="test") as backend:
        await backend.start([parse_port(f"tap:tap0,netns={netns}")])
        port = backend._ports["tap0"]
        assert not lost()
        for up, carrier in ((False, True), (False, False), (True, False), (True, True), (False, False)):
            await backend.set_port("tap0", up=up)
            port.set_carrier(carrier)
            assert lost() is not (up and carrier)
        await backend.set_port("tap0", queue_frames=9)
        await backend.set_port("tap0", up=True)
        assert lost(), "its link has none"
        await eventually(lambda: "NO-CARRIER" in flags(), "what humans see, a moment later")
        await backend.remove_port("tap0")
        assert premade is ("tap0" in ip("-n", netns, "-br", "link"))
        await backend.add_port(parse_port(f"tap:tap0,netns={netns}"))
        assert not lost(), "a new one begins with one"


async def test_a_device_that_is_gone_has_no_carrier_to_set(
    netns: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Backend(name="test") as backend:
        await backend.start([parse_port(f"tap:tap0,netns={netns}")])
        ip("-n", netns, "link", "delete", "tap0")
        await backend.set_port("tap0", up=False)
        await eventually(lambda: backend.snapshot().ports[0].last_end, "the port fails")
        caplog.clear()
        backend._ports["tap0"].set_carrier(False)
        assert not caplog.records


async def test_behind_a_bridge_any_station_may_speak(netns: str) -> None:
    async with Backend(name="test") as backend:
        text = f"tap:tap0,netns={netns},mac=52:54:00:00:00:99"
        await backend.start(
            [parse_port(text), parse_port(f"{text},bridge=br0,name=b".replace("tap0", "tap1"))]
        )
        assert [port.source_mac for port in backend._ports.values()] == [bytes.fromhex("525400000099"), None]
        assert [port.mac for port in backend.snapshot().ports] == ["52:54:00:00:00:99", None]
