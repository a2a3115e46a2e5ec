"""What a switch's services are made of, and where a NAT's forwards lead: from what the lab file says. Pure."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, ip_address, ip_interface

from vbackend.host.ruleset import IPAddress
from vbackend.lab.model import Nic
from vbackend.lab.names import mac_octets
from vbackend.lab.steps import Service
from vbackend.lab.words import seconds
from vbackend.services.config import Dhcp4Config, DnsConfig, RaConfig, Reservation, Server, Services

__all__ = ["guest_addresses", "services_of"]


def guest_addresses(service: Service, nics: Iterable[Nic]) -> list[IPAddress]:
    """A guest's addresses, as the lab file and its DHCP reservations give them; those on the switch first.

    `nics`: the guest's, with their MAC addresses.
    """
    nics = list(nics)
    found = [ip_interface(text).ip for nic in nics for text in nic.addr]
    found += [ip_address(service.reserved[nic.mac]) for nic in nics if nic.mac in service.reserved]
    nets = [ip_interface(text).network for text in service.switch.nat.addr] if service.switch.nat else []
    return sorted(found, key=lambda address: not any(address in net for net in nets))


def services_of(service: Service, gateway: bytes, servers: tuple[Server, ...] | None = None) -> Services:
    """What the station serves. `gateway`: the NAT's MAC address, if there is one. `servers`: who is asked for names of
    others, None: whom /etc/resolv.conf names."""
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
            names={mac_octets(mac): vm for mac, vm in service.guests.items()},
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
