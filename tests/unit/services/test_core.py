"""Whole frames in and out: which service gets what, how its answer is addressed, and that everything is counted."""

from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from typing import Any

import dns.message
import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import DUID_LL, DHCP6_InfoRequest, DHCP6_Solicit, DHCP6OptClientId, DHCP6OptDNSServers
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptDNSSL,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tests.unit.services.test_wire import checked
from vbackend.errors import ConfigError
from vbackend.services.config import Dhcp4Config, DnsConfig, Interface, RaConfig, Services
from vbackend.services.core import Core, Turn
from vbackend.services.reasons import Drop, WireError

OURS, THEIRS = "02:00:00:00:00:01", "52:54:00:00:00:07"
MAC = bytes.fromhex("020000000001")
LINK_LOCAL = "fe80::ff:fe00:1"
ADDRESSES: list[Interface] = [IPv4Interface("10.0.0.1/24"), IPv6Interface("fd00::1/64")]
DHCP4 = Dhcp4Config(IPv4Address("10.0.0.100"), IPv4Address("10.0.0.101"))
ALL = Services(DHCP4, RaConfig(), DnsConfig(forward=True))
TO_ALL = Ether(src=THEIRS, dst="ff:ff:ff:ff:ff:ff")
TO_US = Ether(src=THEIRS, dst=OURS)
TO_ROUTERS = Ether(src=THEIRS, dst="33:33:00:00:00:02")
TO_SERVERS = Ether(src=THEIRS, dst="33:33:00:01:00:02")
FROM_NOWHERE = IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67)


def core(services: Services = ALL, **more: Any) -> Core:
    return Core("lan", MAC, ADDRESSES, services, random=lambda: 0.5, now=0.0, **more)


def dhcp(kind: str, *options: object, **fields: Any) -> Packet:
    head = BOOTP(op=1, xid=7, chaddr=bytes.fromhex(THEIRS.replace(":", "")), **fields)
    return head / DHCP(options=[("message-type", kind), *options, "end"])


def turn(made: Core, packet: Packet, *, today: float = 1000.0) -> Turn:
    found = made.receive(bytes(packet), 0.0, today)
    seen = made.snapshot()
    assert seen.received == sum(seen.handled.values()) + sum(seen.drops.values())
    return found


def read(found: Turn) -> Ether:
    assert found.frame is not None
    frame = Ether(found.frame)
    checked(frame[IP] if IP in frame else frame[IPv6])
    assert frame.src == OURS
    return frame


def test_dhcp_from_nothing_to_a_name() -> None:
    made = core()
    offer = read(turn(made, TO_ALL / FROM_NOWHERE / dhcp("discover", ("hostname", b"Guest"))))
    assert (offer.dst, offer[IP].src, offer[IP].dst) == (THEIRS, "10.0.0.1", "10.0.0.100")
    assert (offer[UDP].sport, offer[UDP].dport, offer[BOOTP].yiaddr) == (67, 68, "10.0.0.100")
    wanted = (("server_id", "10.0.0.1"), ("requested_addr", "10.0.0.100"), ("hostname", b"Guest"))
    done = turn(made, TO_ALL / FROM_NOWHERE / dhcp("request", *wanted, flags=0x8000))
    acknowledged = read(done)
    assert (acknowledged.dst, acknowledged[IP].dst) == ("ff:ff:ff:ff:ff:ff", "255.255.255.255")
    options: dict[str, Any] = dict(one for one in acknowledged[DHCP].options if isinstance(one, tuple))
    assert (options["message-type"], options["name_server"], options["domain"]) == (5, "10.0.0.1", b"lab")
    assert done.event is not None
    assert (done.event.name, done.event.lease.mac) == ("given", THEIRS)
    query = dns.message.make_query("guest.lab", "A")
    ask = TO_US / IP(src="10.0.0.100", dst="10.0.0.1") / UDP(sport=4000, dport=53) / Raw(query.to_wire())
    answer = read(turn(made, ask))
    assert (answer[IP].dst, answer[UDP].sport, answer[UDP].dport) == ("10.0.0.100", 53, 4000)
    assert "10.0.0.100" in str(dns.message.from_wire(bytes(answer[UDP].payload)).answer)
    late = read(turn(made, ask, today=9999.0))
    assert dns.message.from_wire(bytes(late[UDP].payload)).rcode() == dns.rcode.NXDOMAIN
    renewal = TO_US / IP(src="10.0.0.100", dst="10.0.0.1") / UDP(sport=68, dport=67)
    again = read(turn(made, renewal / dhcp("request", ciaddr="10.0.0.100")))
    assert (again.dst, again[IP].dst) == (THEIRS, "10.0.0.100")
    assert turn(made, renewal / dhcp("release", ("server_id", "10.0.0.1"), ciaddr="10.0.0.100")).frame is None
    seen = made.snapshot()
    assert seen.handled == {"dhcp-discover": 1, "dhcp-request": 2, "dhcp-release": 1, "dns": 2}
    assert seen.dns_answers == {"NOERROR": 1, "NXDOMAIN": 1}
    assert [(str(one.address), one.state) for one in seen.leases] == [("10.0.0.100", "released")]


def test_refusal_goes_to_all() -> None:
    packet = TO_ALL / FROM_NOWHERE / dhcp("request", ("requested_addr", "192.168.0.1"))
    refused = read(turn(core(), packet))
    assert (refused.dst, refused[IP].dst) == ("ff:ff:ff:ff:ff:ff", "255.255.255.255")
    assert ("message-type", 6) in refused[DHCP].options


def test_router_solicitations() -> None:
    made = core()
    found = read(turn(made, TO_ROUTERS / IPv6(src="fe80::7", dst="ff02::2") / ICMPv6ND_RS()))
    assert (found.dst, found[IPv6].src, found[IPv6].dst, found[IPv6].hlim) == (
        THEIRS,
        LINK_LOCAL,
        "fe80::7",
        255,
    )
    assert found[ICMPv6NDOptPrefixInfo].prefix == "fd00::"
    assert found[ICMPv6NDOptDNSSL].searchlist == ["lab."]
    made.advertisement(0.0)
    assert made.advertisement_due == 16
    assert turn(made, TO_ROUTERS / IPv6(src="::", dst="ff02::2") / ICMPv6ND_RS()) == Turn()
    assert made.advertisement_due == 3
    to_all = Ether(made.advertisement(3.0, final=True))
    assert (to_all.dst, to_all[IPv6].dst, to_all[ICMPv6ND_RA].routerlifetime) == (
        "33:33:00:00:00:01",
        "ff02::1",
        0,
    )
    assert made.snapshot().advertisements == 2


@pytest.mark.parametrize(
    ("ra", "router"),
    [(RaConfig(), 1), (RaConfig(lifetime=0), 0), (RaConfig(router=b"\2\0\0\0\0\x99"), 0), (None, 0)],
)
def test_who_is_announced_as_router_says_so_to_its_neighbours(ra: RaConfig | None, router: int) -> None:
    """RFC 4861 7.2.4; a host that hears otherwise drops its default route (7.2.5)."""
    made = core(Services(ra=ra, dns=DnsConfig()))
    for target in (LINK_LOCAL, "fd00::1"):
        found = read(turn(made, TO_US / IPv6(src="fe80::7", dst=target) / ICMPv6ND_NS(tgt=target)))
        flags = found[ICMPv6ND_NA].sprintf("%R% %S% %O%")
        assert flags == f"{router} 1 1"


def test_the_link_local_prefix_is_not_announced() -> None:
    """RFC 4861 4.6.2."""
    addresses: list[Interface] = [IPv6Interface("fe80::1/64"), IPv6Interface("fd00::1/64")]
    made = Core("lan", MAC, addresses, Services(ra=RaConfig()), random=lambda: 0.5, now=0.0)
    found = Ether(made.advertisement(0.0))
    assert found[ICMPv6NDOptPrefixInfo].prefix == "fd00::"
    assert ICMPv6NDOptPrefixInfo not in found[ICMPv6NDOptPrefixInfo].payload


def test_another_router_is_announced() -> None:
    made = core(Services(ra=RaConfig(router=b"\2\0\0\0\0\x99")))
    solicited = read(turn(made, TO_ROUTERS / IPv6(src="fe80::7", dst="ff02::2") / ICMPv6ND_RS()))
    for found in (solicited, Ether(made.advertisement(3.0))):
        assert found[IPv6].src == "fe80::ff:fe00:99"
        assert found[ICMPv6NDOptSrcLLAddr].lladdr == "02:00:00:00:00:99"
        assert found.src != "02:00:00:00:00:99", "a switch would learn it where it is not"


def test_stateless_dhcpv6() -> None:
    made = core()
    client = DHCP6OptClientId(duid=DUID_LL(lladdr=THEIRS))
    ip = IPv6(src="fe80::7", dst="ff02::1:2") / UDP(sport=546, dport=547)
    found = read(turn(made, TO_SERVERS / ip / DHCP6_InfoRequest(trid=5) / client))
    assert (found.dst, found[IPv6].src, found[IPv6].dst, found[UDP].dport) == (
        THEIRS,
        LINK_LOCAL,
        "fe80::7",
        546,
    )
    assert found[DHCP6OptDNSServers].dnsservers == ["fd00::1"]
    assert turn(made, TO_SERVERS / ip / DHCP6_Solicit() / client) == Turn()
    assert made.snapshot().drops == {"dhcp6-stateful": 1}
    nowhere = IPv6(src="::", dst="ff02::1:2") / UDP(sport=546, dport=547)
    assert turn(made, TO_SERVERS / nowhere / DHCP6_InfoRequest(trid=5) / client) == Turn()
    assert made.snapshot().drops == {"dhcp6-stateful": 1, "bad-source": 1}


def query(name: str, ip: Packet) -> tuple[Packet, dns.message.Message]:
    asked = dns.message.make_query(name, "A")
    return ip / UDP(sport=4000, dport=53) / Raw(asked.to_wire()), asked


@pytest.mark.parametrize("answered", [True, False])
def test_forwarding(answered: bool) -> None:
    made = core()
    packet, asked = query("example.com", TO_US / IPv6(src="fe80::7", dst=LINK_LOCAL))
    found = turn(made, packet)
    assert found.frame is None
    assert found.forward is not None
    wire = dns.message.make_response(asked).to_wire() if answered else None
    frame = read(Turn(made.forwarded(*found.forward, wire)))
    assert (frame.dst, frame[IPv6].src, frame[UDP].dport) == (THEIRS, LINK_LOCAL, 4000)
    answer = dns.message.from_wire(bytes(frame[UDP].payload))
    assert asked.is_response(answer)
    assert made.snapshot().dns_answers == ({"forwarded": 1} if answered else {"SERVFAIL": 1})


def test_too_many_questions_at_once() -> None:
    def full() -> None:
        raise WireError(Drop.DNS_BUSY)

    made = core(may_forward=full)
    packet, _ = query("example.com", TO_US / IP(src="10.0.0.7", dst="10.0.0.1"))
    assert turn(made, packet) == Turn()
    assert made.snapshot().drops == {"dns-busy": 1}


def test_questions_to_all_are_not_answered() -> None:
    made = core()
    packet, _ = query("www.lab", TO_ALL / IP(src="10.0.0.7", dst="10.0.0.255"))
    assert turn(made, packet) == Turn()
    assert made.snapshot().drops == {"not-for-us": 1}


def test_without_services() -> None:
    made = core(Services())
    assert turn(made, TO_ALL / FROM_NOWHERE / dhcp("discover")) == Turn()
    assert turn(made, TO_ROUTERS / IPv6(src="fe80::7", dst="ff02::2") / ICMPv6ND_RS()) == Turn()
    direct = TO_US / IPv6(src="fe80::7", dst=LINK_LOCAL) / ICMPv6ND_RS()
    assert turn(made, direct) == Turn()
    assert made.advertisement_due is None
    seen = made.snapshot()
    assert seen.drops == {"no-port": 1, "not-for-us": 1, "icmp-type": 1}
    assert (seen.services, seen.leases) == ((), ())


def test_snapshot_says_who_it_is() -> None:
    made = core()
    made.sent(True)
    made.sent(False)
    seen = made.snapshot(3)
    assert (seen.name, seen.mac, seen.services) == ("lan", OURS, ("dhcp", "ra", "dhcp6", "dns"))
    assert seen.addresses == ("10.0.0.1/24", "fd00::1/64", f"{LINK_LOCAL}/64")
    assert (seen.sent, seen.lost, seen.dns_waiting) == (1, 1, 3)


def test_services_that_make_no_sense() -> None:
    with pytest.raises(ConfigError, match=r"^lan: dhcp: "):
        Core("lan", MAC, ADDRESSES[1:], Services(DHCP4), random=lambda: 0.5, now=0.0)
