"""The shell on a real backend, which needs no host: another channel on the same switch is its peer."""

import asyncio
import socket
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, ip_address
from pathlib import Path

import dns.message
import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6ND_RA, ICMPv6ND_RS, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from vbackend.backend import Backend
from vbackend.errors import ConfigError
from vbackend.ports.channel import Channel
from vbackend.services.config import Dhcp4Config, DnsConfig, Interface, RaConfig, Services
from vbackend.services.dhcp4 import LeaseEvent
from vbackend.services.station import Station

OURS, THEIRS = "02:00:00:00:00:01", "52:54:00:00:00:07"
MAC = bytes.fromhex("020000000001")
ADDRESSES: list[Interface] = [IPv4Interface("10.0.0.1/24"), IPv6Interface("fd00::1/64")]
DHCP_ONLY = Services(dhcp4=Dhcp4Config(IPv4Address("10.0.0.100"), IPv4Address("10.0.0.101")))
TO_US, TO_ALL = Ether(src=THEIRS, dst=OURS), Ether(src=THEIRS, dst="ff:ff:ff:ff:ff:ff")
FROM_NOWHERE = IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67)
PING = TO_US / IP(src="10.0.0.7", dst="10.0.0.1") / ICMP()


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with Backend(name="b") as made:
        await made.start([])
        yield made


@pytest.fixture
async def peer(backend: Backend) -> AsyncIterator[Channel]:
    with await backend.open_channel("peer") as channel:
        yield channel


def station(backend: Backend, services: Services = DHCP_ONLY, leases: str | None = None) -> Station:
    return Station(backend, "station", MAC, ADDRESSES, services, leases=leases)


async def next_frame(peer: Channel) -> Ether:
    async with asyncio.timeout(10):
        frame = await peer.recv()
    assert frame is not None
    return Ether(frame)


async def ask(peer: Channel, packet: Packet) -> Ether:
    assert await peer.send(bytes(packet))
    return await next_frame(peer)


def request(last: int = 100) -> Packet:
    options = [("message-type", "request"), ("server_id", "10.0.0.1"), ("requested_addr", f"10.0.0.{last}")]
    head = BOOTP(op=1, xid=7, chaddr=bytes.fromhex("525400000007"))
    return TO_ALL / FROM_NOWHERE / head / DHCP(options=[*options, ("hostname", b"h1"), "end"])


async def test_it_is_there_from_start_to_stop(backend: Backend, peer: Channel) -> None:
    made = station(backend)
    async with made:
        assert (await ask(peer, PING))[ICMP].type == 0
        assert [port.name for port in backend.snapshot().ports] == ["peer", "station"]
        with pytest.raises(ConfigError, match="is started already"):
            await made.start()
    assert [port.name for port in backend.snapshot().ports] == ["peer"]
    await made.stop()
    await made.start()
    assert (await ask(peer, PING))[ICMP].type == 0
    seen = made.snapshot()
    assert (seen.handled, seen.received, seen.sent, seen.lost) == ({"echo": 2}, 2, 2, 0)
    await made.stop()


async def test_waiting_for_a_lease(backend: Backend, peer: Channel) -> None:
    events: list[LeaseEvent] = []
    async with station(backend) as made:
        end = made.subscribe(events.append)
        waiting = [
            asyncio.create_task(made.wait_for_lease(**who))
            for who in ({}, {"mac": THEIRS}, {"hostname": "H1"})
        ]
        other = asyncio.create_task(made.wait_for_lease(mac=OURS))
        assert (await ask(peer, request()))[BOOTP].yiaddr == "10.0.0.100"
        async with asyncio.timeout(10):
            leases = await asyncio.gather(*waiting)
        assert [str(lease.address) for lease in leases] == ["10.0.0.100"] * 3
        assert await made.wait_for_lease(mac=THEIRS) == leases[0], "it has it already"
        assert not other.done()
        other.cancel()
        end()
        end()
        await ask(peer, request())
    assert [event.name for event in events] == ["given"]


async def test_leases_outlive_the_station(backend: Backend, peer: Channel) -> None:
    async with station(backend) as made:
        await ask(peer, request())
        kept = made.leases_json()
    async with station(backend, leases=kept) as made:
        assert made.snapshot().leases[0].hostname == "h1"
        assert made.leases_json() == kept
    with pytest.raises(ConfigError, match="read leases"):
        station(backend, leases="nonsense")


async def test_advertisements_come_by_themselves_and_end(backend: Backend, peer: Channel) -> None:
    made = station(backend, Services(ra=RaConfig()))
    async with made:
        first = await next_frame(peer)
        assert (first[IPv6].dst, first[ICMPv6ND_RA].routerlifetime) == ("ff02::1", 1800)
        solicitation = (
            Ether(src=THEIRS, dst="33:33:00:00:00:02") / IPv6(src="fe80::7", dst="ff02::2") / ICMPv6ND_RS()
        )
        assert (await ask(peer, solicitation))[IPv6].dst == "fe80::7"
    assert (await next_frame(peer))[ICMPv6ND_RA].routerlifetime == 0


async def test_without_dhcp_nobody_waits_for_a_lease(backend: Backend) -> None:
    async with station(backend, Services()) as made:
        assert made.leases_json() == "[]"
        with pytest.raises(ConfigError, match="has no DHCP"):
            await made.wait_for_lease()


async def test_port_that_is_removed_under_it(backend: Backend) -> None:
    async with station(backend, Services(ra=RaConfig())) as made:
        await backend.remove_port("station")
    assert made.snapshot().lost >= 1, "the last advertisement"


async def test_backend_that_stops_first() -> None:
    async with Backend(name="b") as backend:
        await backend.start([])
        made = station(backend, Services(ra=RaConfig()))
        await made.start()
        await backend.stop()
        await made.stop()


async def test_a_name_server_that_is_not_asked_when_it_is_ourselves(backend: Backend, peer: Channel) -> None:
    config = DnsConfig(forward=True, servers=((ip_address("10.0.0.1"), 53),))
    query = dns.message.make_query("example.com", "A").to_wire()
    async with station(backend, Services(dns=config)):
        found = await ask(
            peer, TO_US / IP(src="10.0.0.7", dst="10.0.0.1") / UDP(sport=4, dport=53) / Raw(query)
        )
    assert dns.message.from_wire(bytes(found[UDP].payload)).rcode() == dns.rcode.SERVFAIL


async def test_only_so_many_queries_are_forwarded_at_once_however_many_come(
    backend: Backend, peer: Channel
) -> None:
    query = Raw(dns.message.make_query("example.com", "A").to_wire())
    frame = bytes(TO_US / IP(src="10.0.0.7", dst="10.0.0.1") / UDP(sport=4, dport=53) / query)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        config = DnsConfig(forward=True, servers=((ip_address("127.0.0.1"), silent.getsockname()[1]),))
        async with station(backend, Services(dns=config)) as made:
            assert await peer.send_all([frame] * 100) == 100
            async with asyncio.timeout(10):
                while made.snapshot().received < 100:
                    await asyncio.to_thread(lambda: None)
            seen = made.snapshot()
            assert (seen.dns_waiting, seen.drops) == (64, {"dns-busy": 36})


async def test_a_resolv_conf_in_another_encoding(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tmp_path / "resolv.conf"
    found.write_bytes(b"# b\xfcro\nnameserver 10.9.9.9\n")
    monkeypatch.setattr("vbackend.services.station.RESOLV_CONF", str(found))
    assert station(backend, Services(dns=DnsConfig(forward=True))).snapshot().services == ("dns",)


async def test_a_flood_does_not_stop_the_loop(backend: Backend, peer: Channel) -> None:
    """Every frame is counted, and others have their turns meanwhile."""
    flood = [bytes(PING)] * 100
    async with station(backend) as made:
        sent = 0
        for _ in range(20):
            sent += await peer.send_all(flood)
            await asyncio.sleep(0)
        tx = {port.name: port.tx for port in backend.snapshot().ports}["station"]
        async with asyncio.timeout(30):
            while made.snapshot().received + tx.dropped < sent:
                await asyncio.to_thread(lambda: None)
                tx = {port.name: port.tx for port in backend.snapshot().ports}["station"]
        assert made.snapshot().handled["echo"] == made.snapshot().received
