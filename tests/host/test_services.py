"""Real clients against a station's services, on a tap in a namespace: three DHCP clients, the kernel, rdisc6 and dig.

The station runs in this process, beside the backend it is a port of; the clients are processes in the namespace.
"""

import asyncio
import json
import re
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, ip_address
from pathlib import Path
from typing import cast

import dns.message
import pytest

from tests.support.netns import Namespace, netns
from tests.support.qemu_peers import eventually
from tests.support.stacks import socket_in
from vbackend.backend import Backend
from vbackend.ports.parse import parse_port
from vbackend.services.config import Dhcp4Config, DnsConfig, RaConfig, Reservation, Services
from vbackend.services.leases import Lease
from vbackend.services.station import Station

__all__ = ["netns"]

pytestmark = pytest.mark.root

MAC = bytes.fromhex("02000000aa01")
LINK_LOCAL = "fe80::ff:fe00:aa01"
CLIENT = "52:54:00:00:00:07"
OWN4, OWN6 = IPv4Interface("10.9.0.1/24"), IPv6Interface("fd00:9::1/64")
FIRST, LAST = IPv4Address("10.9.0.100"), IPv4Address("10.9.0.120")
RECORDS = {"www": (ip_address("10.9.0.9"), ip_address("fd00:9::9"))}
SERVICES = Services(
    dhcp4=Dhcp4Config(FIRST, LAST, router=IPv4Address("10.9.0.254"), mtu=1400),
    ra=RaConfig(mtu=1400),
    dns=DnsConfig(records=RECORDS),
)
DEADLINE_S = 40


@dataclass(frozen=True, slots=True)
class Lab:
    backend: Backend
    station: Station
    netns: Namespace
    folder: Path

    async def run(self, *command: str, status: int = 0) -> str:
        """What a command in the namespace says; it ends in time, and with this status."""
        with (self.folder / "said").open(
            "w+"
        ) as said:  # no pipe, which a child in the background would keep open
            done = await asyncio.to_thread(
                subprocess.run,
                self.netns.command(*command),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                timeout=DEADLINE_S,
                check=False,
            )
            said.seek(0)
            text = said.read()
        assert done.returncode == status, f"{' '.join(command)}: status {done.returncode}: {text}"
        return text

    async def settled(self) -> None:
        """The kernel has its link-local address: before, nothing can be asked of IPv6."""

        def there() -> bool:
            said = self.netns.ip("-6", "address", "show", "tap0")
            return "fe80" in said and "tentative" not in said

        await eventually(there, "an address that can be used")

    def script(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{text}")
        path.chmod(0o755)
        return str(path)

    async def lease(self, **who: str) -> Lease:
        async with asyncio.timeout(DEADLINE_S):
            return await self.station.wait_for_lease(**who)

    @property
    def leases(self) -> tuple[Lease, ...]:
        return self.station.snapshot().leases


@asynccontextmanager
async def lab_of(
    netns: Namespace, folder: Path, services: Services = SERVICES, leases: str | None = None
) -> AsyncIterator[Lab]:
    async with Backend(name="services") as backend:
        await backend.start([parse_port(f"tap:tap0,netns={netns.name},mac={CLIENT}")])
        async with Station(backend, "station", MAC, [OWN4, OWN6], services, leases=leases) as station:
            lab = Lab(backend, station, netns, folder)
            await lab.settled()
            yield lab
            seen = station.snapshot()
            assert seen.received == sum(seen.handled.values()) + sum(seen.drops.values())


@pytest.fixture
async def lab(netns: Namespace, tmp_path: Path) -> AsyncIterator[Lab]:
    async with lab_of(netns, tmp_path) as lab:
        yield lab


def udhcpc(lab: Lab, *options: str) -> tuple[str, ...]:
    script = lab.script(
        "udhcpc.sh",
        'set > "$(dirname "$0")/$1"\n[ "$1" = bound ] && ip addr replace "$ip/$mask" dev "$interface"\nexit 0\n',
    )
    return ("busybox", "udhcpc", "-i", "tap0", "-f", "-n", "-T", "1", "-t", "10", "-s", script, *options)


def told(lab: Lab, name: str) -> dict[str, str]:
    """The variables of udhcpc's script."""
    return dict(re.findall(r"^(\w+)='(.*)'$", (lab.folder / name).read_text(), re.M))


async def test_udhcpc_gets_a_lease_and_its_name_is_known(lab: Lab) -> None:
    await lab.run(*udhcpc(lab, "-q", "-x", "hostname:Guest", "-O", "mtu", "-O", "broadcast"))
    heard = told(lab, "bound")
    expected = {
        "ip": "10.9.0.100",
        "mask": "24",
        "router": "10.9.0.254",
        "dns": "10.9.0.1",
        "domain": "lab",
        "lease": "3600",
        "mtu": "1400",
        "broadcast": "10.9.0.255",
        "serverid": "10.9.0.1",
    }
    assert {name: heard.get(name) for name in expected} == expected
    lease = await lab.lease(hostname="guest")
    assert (lease.mac, str(lease.address)) == (CLIENT, "10.9.0.100")
    assert (await lab.run("dig", "+short", "@10.9.0.1", "guest.lab")).split() == ["10.9.0.100"]
    assert (await lab.run("dig", "+short", "@10.9.0.1", "-x", "10.9.0.100")).split() == ["guest.lab."]


async def test_udhcpc_renews_and_releases(netns: Namespace, tmp_path: Path) -> None:
    """A lease of a minute is renewed after half of it, so the client is told to do it now (SIGUSR1)."""
    async with lab_of(netns, tmp_path) as lab:
        child = await asyncio.create_subprocess_exec(*netns.command(*udhcpc(lab, "-R")))
        try:
            lease = await lab.lease(mac=CLIENT)
            seen: list[str] = []
            lab.station.subscribe(lambda event: seen.append(event.name))
            await eventually((tmp_path / "bound").exists, "the client has its lease")
            child.send_signal(signal.SIGUSR1)
            await eventually(lambda: seen == ["renewed"], "the lease is renewed")
            assert [one.address for one in lab.leases] == [lease.address]
            child.terminate()
            await eventually(lambda: seen == ["renewed", "released"], "the lease is given back")
            await child.wait()
            assert [one.state for one in lab.leases] == ["released"]
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()


async def test_udhcpc_gets_what_is_reserved(netns: Namespace, tmp_path: Path) -> None:
    reserved = Reservation(IPv4Address("10.9.0.50"), mac=bytes.fromhex(CLIENT.replace(":", "")))
    services = Services(dhcp4=Dhcp4Config(FIRST, LAST, reservations=(reserved,)))
    async with lab_of(netns, tmp_path, services) as lab:
        await lab.run(*udhcpc(lab, "-q"))
        assert told(lab, "bound")["ip"] == "10.9.0.50"


async def test_udhcpc_declines_an_address_in_use(lab: Lab) -> None:
    """The station has the address too: the client's ARP probe (-a) is answered."""
    squatter = Station(
        lab.station._ports, "squatter", MAC[:5] + b"\x02", [IPv4Interface(f"{FIRST}/24")], Services()
    )
    async with squatter:
        await lab.run(*udhcpc(lab, "-q", "-a", "-A", "1"))
    assert [(str(one.address), one.state) for one in lab.leases] == [
        ("10.9.0.100", "declined"),
        ("10.9.0.101", "bound"),
    ]


def dhclient(lab: Lab, *options: str) -> tuple[str, ...]:
    script = lab.script(
        "dhclient.sh",
        f"""set > {lab.folder}/$reason
[ -n "$new_ip_address" ] && ip addr replace $new_ip_address/24 dev tap0
exit 0
""",
    )
    (lab.folder / "dhclient.conf").write_text('send host-name "isc";\ntimeout 30;\n')
    files = ("-cf", f"{lab.folder}/dhclient.conf", "-lf", f"{lab.folder}/leases", "-pf", f"{lab.folder}/pid")
    return ("dhclient", "-v", "-1", "-sf", script, *files, *options, "tap0")


async def end_dhclient(lab: Lab) -> None:
    """Without a word to the server. Its pid file comes after its parent's end."""
    pid = lab.folder / "pid"
    await eventually(lambda: pid.exists() and pid.read_text().endswith("\n"), "its pid file")
    lab.netns.run("kill", "-9", pid.read_text().strip())
    pid.unlink()


async def test_dhclient_comes_back_to_its_address(netns: Namespace, tmp_path: Path) -> None:
    """The second client has the first one's lease (INIT-REBOOT), and the second server the first one's leases."""
    async with lab_of(netns, tmp_path) as lab:
        first = await lab.run(*dhclient(lab))
        assert "DHCPOFFER of 10.9.0.100 from 10.9.0.1" in first
        assert "domain_name='lab'" in (tmp_path / "BOUND").read_text()
        await end_dhclient(lab)
        kept = lab.station.leases_json()
    async with lab_of(netns, tmp_path, leases=kept) as lab:
        again = await lab.run(*dhclient(lab))
        assert "DHCPDISCOVER" not in again
        assert "DHCPACK of 10.9.0.100 from 10.9.0.1" in again
        assert lab.station.snapshot().handled["dhcp-request"] == 1
        await lab.run(*dhclient(lab, "-r"))
        await eventually(lambda: [one.state for one in lab.leases] == ["released"], "the lease is given back")


async def test_dhclient_is_refused_an_address_of_another_network(netns: Namespace, tmp_path: Path) -> None:
    elsewhere = Services(dhcp4=Dhcp4Config(IPv4Address("10.9.0.100"), LAST))
    async with lab_of(netns, tmp_path, elsewhere) as lab:
        await lab.run(*dhclient(lab))
        await end_dhclient(lab)
    leases = (tmp_path / "leases").read_text()
    (tmp_path / "leases").write_text(leases.replace("10.9.0.100", "10.77.0.100"))
    async with lab_of(netns, tmp_path, elsewhere) as lab:
        said = await lab.run(*dhclient(lab))
        assert "DHCPNAK" in said
        assert "DHCPACK of 10.9.0.100" in said


async def test_dhclient_asks_for_stateless_configuration(lab: Lab) -> None:
    await lab.run(*dhclient(lab, "-6", "-S"))
    heard = (lab.folder / "RENEW6").read_text()
    assert "new_dhcp6_name_servers='fd00:9::1'" in heard
    assert "new_dhcp6_domain_search='lab.'" in heard
    assert lab.station.snapshot().handled["dhcp6"] >= 1


async def test_dhcpcd_takes_all_of_it(lab: Lab) -> None:
    """It sends a DUID as its client identifier, and its files lie where only it sees them."""
    script = lab.script("dhcpcd.sh", f'set > "{lab.folder}/$reason"\n')
    (lab.folder / "dhcpcd.conf").write_text(
        "duid\nhostname cd\nnoarp\noption domain_name_servers, domain_name, interface_mtu, routers\n"
    )
    client = f"dhcpcd --nodev --oneshot --waitip=4 -B -4 -f {lab.folder}/dhcpcd.conf -c {script} tap0"
    places = "mount -t tmpfs none /run && mkdir /run/dhcpcd && mount -t tmpfs none /var/lib/dhcpcd"
    await lab.run("unshare", "--mount", "sh", "-c", f"{places} && {client}")
    lease = await lab.lease(hostname="cd")
    assert lease.client.startswith("ff"), "it is known by its DUID (RFC 4361)"
    assert f"{lease.address}/24" in lab.netns.addresses("tap0")
    heard = (lab.folder / "BOUND").read_text()
    for line in (
        "new_interface_mtu='1400'",
        "new_domain_name_servers='10.9.0.1'",
        "new_routers='10.9.0.254'",
    ):
        assert line in heard


def default_routes(netns: Namespace) -> list[str]:
    return [one["gateway"] for one in json.loads(netns.ip("-6", "-json", "route", "show", "default") or "[]")]


async def test_kernel_makes_itself_an_address(lab: Lab) -> None:
    """Autoconfiguration, the default route and the MTU come from the router's advertisement."""
    lab.netns.run("sysctl", "-qw", "net.ipv6.conf.tap0.accept_ra=2")
    await eventually(lambda: "fd00:9::5054:ff:fe00:7/64" in lab.netns.addresses("tap0"), "an address")
    assert default_routes(lab.netns) == [LINK_LOCAL]
    assert lab.netns.run("cat", "/proc/sys/net/ipv6/conf/tap0/mtu").strip() == "1400"


async def test_the_kernel_keeps_its_router_when_it_asks_for_it_again(lab: Lab) -> None:
    """It drops the default route when the answer has no router flag (RFC 4861 7.2.5)."""
    await eventually(lambda: default_routes(lab.netns) == [LINK_LOCAL], "a default route")
    lab.netns.run("sysctl", "-qw", "net.ipv6.neigh.tap0.delay_first_probe_time=1")
    await lab.run("ping", "-c", "1", f"{LINK_LOCAL}%tap0")
    await eventually(lambda: "REACHABLE" in lab.netns.ip("neigh", "show", LINK_LOCAL), "it was answered")
    assert default_routes(lab.netns) == [LINK_LOCAL]


async def test_router_that_stops_says_so(netns: Namespace, tmp_path: Path) -> None:
    async with lab_of(netns, tmp_path) as lab:
        netns.run("sysctl", "-qw", "net.ipv6.conf.tap0.accept_ra=2")
        await eventually(lambda: default_routes(netns) == [LINK_LOCAL], "a default route")
        await lab.station.stop()
        await eventually(lambda: default_routes(netns) == [], "it is gone")


async def test_rdisc6_and_ndisc6_read_what_we_say(lab: Lab) -> None:
    said = await lab.run("rdisc6", "-1", "tap0")
    for line in (
        r"Stateful other conf\.\s*: +Yes",
        r"Router lifetime +: +1800",
        r"Prefix +: fd00:9::/64",
        r"MTU +: +1400",
        r"Source link-layer address: 02:00:00:00:AA:01",
        r"Recursive DNS server +: fd00:9::1",
        r"DNS search list +: lab",
        rf"from {LINK_LOCAL}",
    ):
        assert re.search(line, said), f"{line} is not in\n{said}"
    for address in (LINK_LOCAL, "fd00:9::1"):
        assert "02:00:00:00:AA:01" in await lab.run("ndisc6", "-1", address, "tap0")


async def test_ping_and_a_port_that_nobody_serves(lab: Lab) -> None:
    lab.netns.ip("addr", "add", "10.9.0.7/24", "dev", "tap0")
    lab.netns.ip("addr", "add", "fd00:9::7/64", "dev", "tap0", "nodad")
    for address in ("10.9.0.1", "fd00:9::1", f"{LINK_LOCAL}%tap0"):
        await lab.run("ping", "-c", "2", "-i", "0.2", "-s", "1000", "-W", "10", address)
    await lab.run("busybox", "arping", "-c", "1", "-I", "tap0", "10.9.0.1")
    loop = asyncio.get_running_loop()
    for family, address in ((socket.AF_INET, "10.9.0.1"), (socket.AF_INET6, "fd00:9::1")):
        with socket_in(lab.netns, family, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect((address, 7))
            await loop.sock_sendall(sock, b"anybody?")
            with pytest.raises(ConnectionRefusedError):
                async with asyncio.timeout(DEADLINE_S):
                    await loop.sock_recv(sock, 100)


async def test_dig_and_getent_ask_for_names(lab: Lab) -> None:
    lab.netns.ip("addr", "add", "10.9.0.7/24", "dev", "tap0")
    lab.netns.ip("addr", "add", "fd00:9::7/64", "dev", "tap0", "nodad")
    for server in ("@10.9.0.1", "@fd00:9::1", f"@{LINK_LOCAL}%tap0"):
        assert (await lab.run("dig", "+short", server, "www.lab", "AAAA")).split() == ["fd00:9::9"]
    assert (await lab.run("dig", "+short", "@10.9.0.1", "-x", "fd00:9::9")).split() == ["www.lab."]
    said = await lab.run("dig", "@10.9.0.1", "nobody.lab")
    assert "status: NXDOMAIN" in said
    assert "SOA" in said
    assert "status: REFUSED" in await lab.run("dig", "@10.9.0.1", "example.com")
    assert "status: NOERROR" in await lab.run("dig", "+noedns", "@10.9.0.1", "www.lab")
    assert "status: BADVERS" in await lab.run("dig", "+noednsneg", "+edns=1", "@10.9.0.1", "www.lab")
    resolv = lab.folder / "resolv.conf"
    resolv.write_text("nameserver 10.9.0.1\nsearch lab\n")
    look = f"mount --bind {resolv} /etc/resolv.conf && getent ahosts www"
    said = await lab.run("unshare", "--mount", "sh", "-c", look)
    assert {"10.9.0.9", "fd00:9::9"} <= set(said.split())


class Upstream(asyncio.DatagramProtocol):
    """Another name server: TXT records of any length."""

    def __init__(self) -> None:
        self.asked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.asked += 1
        query = dns.message.from_wire(data)
        name = query.question[0].name
        count = int(name.labels[0])
        response = dns.message.make_response(query, recursion_available=True)
        response.answer = [
            dns.rrset.from_text(name, 60, "IN", "TXT", *(f'"{"x" * 200}{n}"' for n in range(count)))
        ]
        self.transport.sendto(bytes(2) + data[2:], addr)  # what an attacker would try
        self.transport.sendto(response.to_wire(), addr)


async def test_other_names_are_forwarded(netns: Namespace, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    transport, upstream = await loop.create_datagram_endpoint(Upstream, local_addr=("127.0.0.1", 0))
    try:
        port = transport.get_extra_info("sockname")[1]
        server = (IPv4Address("127.0.0.1"), port)
        services = Services(dns=DnsConfig(forward=True, servers=(server,)))
        async with lab_of(netns, tmp_path, services) as lab:
            netns.ip("addr", "add", "10.9.0.7/24", "dev", "tap0")
            ask = ("dig", "@10.9.0.1", "+ignore", "TXT")
            assert "x" * 200 + "1" in await lab.run(*ask, "2.example.com")
            for more in ("+noedns", "+bufsize=4096"):
                said = await lab.run(*ask, more, "9.example.com")
                assert re.search(r"flags: qr tc rd ra", said), said
            assert upstream.asked == 3
            assert "status: NXDOMAIN" in await lab.run(*ask, "9.lab")
            assert lab.station.snapshot().dns_answers == {"forwarded": 3, "NXDOMAIN": 1}
            transport.close()
            assert "status: SERVFAIL" in await lab.run(*ask, "1.example.com")
    finally:
        transport.close()
