"""Two guests and the host on one switch, over each transport: whatever Ethernet carries gets through.

guest a ── transport ── vbackend ── transport ── guest b
10.5.0.1                   │                     10.5.0.2
                          tap0, host side, 10.5.0.254, in a namespace
"""

import asyncio
import json
import subprocess
from pathlib import Path

import pytest

from tests.guests.wiring import TRANSPORTS, Transport, boot, mac
from tests.support.guest import Guest, Guests, parse_ping
from tests.support.netns import Namespace, namespace
from tests.support.run import Run, vbackend_run

pytestmark = [pytest.mark.guest, pytest.mark.root, pytest.mark.timeout(240)]

HOST = "10.5.0.254"


@pytest.mark.parametrize("transport", TRANSPORTS, ids=lambda transport: transport.name)
async def test_everything_reaches_everybody(transport: Transport, guests: Guests, tmp_path: Path) -> None:
    with namespace() as host:
        tap = f"tap:tap0,netns={host.name},addr={HOST}/24,addr=fd05::fe/64,mtu=9000"
        ports = [transport.port(tmp_path, name) for name in "ab"]
        with vbackend_run(tmp_path, *ports, tap) as run:
            a, b = await asyncio.gather(
                *(boot(guests, transport, tmp_path, name, number) for number, name in enumerate("ab", 1))
            )
            run.wait_connected("a", "b")
            await _pings_in_all_directions(a, b, host)
            await _multicast(a)
            await _vlan_tags(a, b)
            await _udp_fragments(a, b)
            await _tcp(a, b, host)
            await _mtu(a, b, host)
            _counted(run)


async def _pings_in_all_directions(a: Guest, b: Guest, host: Namespace) -> None:
    for guest, others in ((a, ("10.5.0.2", HOST, "fd05::2", "fd05::fe")), (b, ("10.5.0.1", HOST, "fd05::1"))):
        for address in others:
            await guest.wait_ping(address)
            result = await guest.ping(address, count=5)
            assert (result.received, result.duplicates) == (5, 0), f"{guest.name} to {address}: {result}"
    for address in ("10.5.0.1", "10.5.0.2", "fd05::1", "fd05::2"):
        await asyncio.to_thread(host.run, "ping", "-n", "-c", "3", "-i", "0.1", "-W", "3", address)


async def _multicast(a: Guest) -> None:
    """All nodes on the link answer, the other guest and the host; the last request's first answer ends the ping."""
    name = await a.interface(mac(1))
    result = await a.run(f"/bin/ping -n -L -q -c 3 -i 0.2 -W 3 ff02::1%{name}", timeout=30)
    pinged = parse_ping(result.text)
    assert pinged.received == 3, result.text
    assert pinged.duplicates >= 2, result.text


async def _vlan_tags(a: Guest, b: Guest) -> None:
    """Tagged frames of full size pass, and reach only those who speak that VLAN."""
    for guest, number in ((a, 1), (b, 2)):
        name = await guest.interface(mac(number))
        await guest.check(
            f"modprobe 8021q && ip link add link {name} name v7 type vlan id 7 && "
            f"ip addr add 10.6.0.{number}/24 dev v7 && ip link set v7 up"
        )
    await a.wait_ping("10.6.0.2")
    result = await a.ping("10.6.0.2", size=1472, df=True)
    assert result.received == 3, result
    await a.check("ip link del v7")
    await b.check("ip link del v7")


async def _udp_fragments(a: Guest, b: Guest) -> None:
    """Datagrams of 8000 bytes over an MTU of 1500."""
    await b.iperf_server()
    report = await a.iperf("10.5.0.2", seconds=1, arguments="--udp --length 8000 --bitrate 2M")
    summary = report["end"]["sum"]
    assert summary["packets"] > 10
    assert summary["lost_packets"] == 0, summary


async def _tcp(a: Guest, b: Guest, host: Namespace) -> None:
    await b.iperf_server()
    report = await a.iperf("10.5.0.2", seconds=1)
    assert report["end"]["sum_received"]["bytes"] > 1_000_000
    await b.iperf_server()
    client = host.command("iperf3", "--client", "10.5.0.2", "--time", "1", "--json")
    done = await asyncio.to_thread(
        subprocess.run, client, capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout)["end"]["sum_received"]["bytes"] > 1_000_000


async def _mtu(a: Guest, b: Guest, host: Namespace) -> None:
    """The largest and the smallest packets that Linux sends over Ethernet, unfragmented (68: RFC 791)."""
    header = 28  # IPv4 and ICMP
    for mtu in (1500, 9000, 68):
        for guest, number in ((a, 1), (b, 2)):
            await guest.check(f"ip link set {await guest.interface(mac(number))} mtu {mtu}")
        host.ip("link", "set", "tap0", "mtu", str(mtu))
        for address in ("10.5.0.2", HOST):
            result = await a.ping(address, size=mtu - header, df=True)
            assert result.received == 3, f"MTU {mtu} to {address}: {result}"
        refused = await a.run(f"/bin/ping -n -c 1 -W 1 -M do -s {mtu - header + 1} 10.5.0.2")
        assert refused.status != 0, f"MTU {mtu} let a larger packet out"


def _counted(run: Run) -> None:
    """The guests' own traffic is where `show` says it is."""
    snapshot = run.snapshot()
    (segment,) = snapshot.segments
    learned = {entry.mac: entry.port for entry in segment.fdb}
    assert (learned[mac(1)], learned[mac(2)]) == ("a", "b")
    for port in snapshot.ports:
        assert port.rx.frames_out > 100, port
        assert "runt" not in port.rx.drops, port
