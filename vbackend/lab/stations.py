"""The services of a lab's switches: one station each, made of what the lab file says. Leases outlive the daemon.

`services_of` is pure. Not here: what a service does (services/), which switch has which (picture.py).
"""

import asyncio
import logging
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, ip_address, ip_interface
from pathlib import Path
from typing import Final

from vbackend.backend import Backend
from vbackend.lab.names import gateway_mac, mac_address, mac_octets
from vbackend.lab.state import LabFolder, replace_file
from vbackend.lab.steps import Service
from vbackend.lab.words import seconds
from vbackend.services.config import Dhcp4Config, DnsConfig, RaConfig, Reservation, Server, Services
from vbackend.services.snapshot import StationSnapshot
from vbackend.services.station import Station

__all__ = ["Stations", "services_of", "station_name"]

log = logging.getLogger(__name__)


def station_name(switch: str) -> str:
    """What its port is called."""
    return f"{switch}:services"


def services_of(
    service: Service, names: Mapping[bytes, str], gateway: bytes, servers: tuple[Server, ...] | None = None
) -> Services:
    """What the station serves. `names`: VMs by the MAC addresses of their NICs on the switch. `gateway`: the NAT's MAC
    address, if there is one. `servers`: who is asked for names of others, None: whom /etc/resolv.conf names."""
    switch, dhcp4, ra, dns = service.switch, None, None, None
    if (dhcp := switch.dhcp) is not None:
        first, last = dhcp.bounds
        router = dhcp.router
        if router is None and switch.nat is not None:
            found = (ip_interface(text) for text in switch.nat.addr)
            router = next((str(each.ip) for each in found if isinstance(each, IPv4Interface)), None)
        dhcp4 = Dhcp4Config(
            first,
            last,
            lease=seconds(dhcp.lease),
            router=None if router is None else IPv4Address(router),
            reservations=tuple(
                Reservation(IPv4Address(address), mac=mac_octets(mac))
                for mac, address in service.reserved.items()
            ),
            names=dict(names),
        )
    if switch.ra is not None:
        # The router is whoever leads out; the station itself does not.
        leads_out = switch.nat is not None and any(
            isinstance(ip_interface(text), IPv6Interface) for text in switch.nat.addr
        )
        ra = RaConfig(lifetime=seconds(switch.ra.lifetime), router=gateway if leads_out else None)
    if switch.dns is not None:
        records = {name: tuple(map(ip_address, found)) for name, found in service.names.items()}
        records |= {name: (ip_address(address),) for name, address in switch.dns.records.items()}
        dns = DnsConfig(
            domain=switch.dns.domain, records=records, forward=switch.dns.forward, servers=servers
        )
    return Services(dhcp4, ra, dns)


class Stations:
    """Those that run, by switch."""

    def __init__(
        self, folder: LabFolder, backend: Backend, servers: tuple[Server, ...] | None = None
    ) -> None:
        """`servers`: as of `services_of`."""
        self._folder: Final = folder
        self._backend: Final = backend
        self._servers: Final = servers
        self._running: Final[dict[str, Station]] = {}

    async def start(self, switch: str, service: Service, names: Mapping[bytes, str]) -> None:
        """ConfigError: the services make no sense."""
        leases = self._leases(switch)
        station = Station(
            self._backend,
            station_name(switch),
            mac_octets(mac_address(self._folder.name, switch, "services")),
            service.switch.addresses,
            services_of(service, names, mac_octets(gateway_mac(self._folder.name, switch)), self._servers),
            segment=switch,
            leases=await asyncio.to_thread(leases.read_text) if leases.exists() else None,
        )
        station.subscribe(lambda _: replace_file(leases, station.leases_json()))
        await station.start()
        self._running[switch] = station

    async def stop(self, switch: str) -> None:
        """Nothing when it has none."""
        if switch in self._running:
            await self._running.pop(switch).stop()

    async def close(self) -> None:
        """Stop them all."""
        for switch in list(self._running):
            await self.stop(switch)

    def snapshots(self) -> dict[str, StationSnapshot]:
        return {switch: station.snapshot() for switch, station in self._running.items()}

    def _leases(self, switch: str) -> Path:
        return self._folder.root / f"leases-{switch}.json"
