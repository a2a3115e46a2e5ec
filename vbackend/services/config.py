"""What the services of a switch are: plain values, checked once.

Rule: what `check` accepts, the services can serve. Every ConfigError is one line that says what to give.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from vbackend.errors import ConfigError
from vbackend.services.wire import Address

__all__ = [
    "Dhcp4Config",
    "DnsConfig",
    "Interface",
    "RaConfig",
    "Reservation",
    "Route",
    "Server",
    "Services",
    "check",
    "is_name",
    "ra_interval",
    "server_interface",
]

Interface = IPv4Interface | IPv6Interface
Route = tuple[IPv4Network, IPv4Address]
Server = tuple[Address, int]  # and its UDP port

MOST_ADDRESSES = 4096  # of a range: finding a free address looks at all of them
LONGEST_DOMAIN = 180  # so that a client's name fits before it
_INFINITE_S = 0xFFFFFFFF
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Reservation:
    """An address for one client, known by its MAC address, by the host name it sends, or by either."""

    address: IPv4Address
    mac: bytes | None = None
    hostname: str | None = None


@dataclass(frozen=True, slots=True)
class Dhcp4Config:
    """`dns` None: this station where it has a name service, else none. `names`: of MAC addresses whose names are
    known; for the others the name that the client sends counts. Times in seconds."""

    first: IPv4Address
    last: IPv4Address
    lease: int = 3600
    router: IPv4Address | None = None
    dns: tuple[IPv4Address, ...] | None = None
    domain: str | None = None  # None: the name service's
    mtu: int | None = None
    routes: tuple[Route, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    names: Mapping[bytes, str] = field(default_factory=dict)
    offer: int = 60  # how long an offered address is kept
    quarantine: int = 600  # how long an address rests that a client found in use


@dataclass(frozen=True, slots=True)
class RaConfig:
    """`prefixes`, `dns`, `domains` None: those of the station's addresses and name service. Times in seconds.

    `lifetime`: how long there is a default router; 0: there is none, and only announces prefixes.
    `interval`: the longest time between two advertisements to all; None: a third of the lifetime, at most ten minutes.
    `stateless`: DHCPv6 tells the same. `router`: MAC address of the router that is announced, whose link-local address
    is the one made of that; None: the station.
    """

    lifetime: int = 1800
    prefixes: tuple[IPv6Network, ...] | None = None
    dns: tuple[IPv6Address, ...] | None = None
    domains: tuple[str, ...] | None = None
    mtu: int | None = None
    interval: int | None = None
    valid: int = 86400
    preferred: int = 14400
    stateless: bool = True
    router: bytes | None = None


@dataclass(frozen=True, slots=True)
class DnsConfig:
    """`records`: names without the domain, or with it. `forward`: what is not the lab's is asked of `servers`."""

    domain: str = "lab"
    records: Mapping[str, tuple[Address, ...]] = field(default_factory=dict)
    forward: bool = False
    servers: tuple[Server, ...] | None = None  # None: those of /etc/resolv.conf
    ttl: int = 30


@dataclass(frozen=True, slots=True)
class Services:
    """None: that service is not there."""

    dhcp4: Dhcp4Config | None = None
    ra: RaConfig | None = None
    dns: DnsConfig | None = None


def is_name(name: str) -> bool:
    """A host or domain name: labels of letters, digits, - and _, at most 253 characters."""
    return len(name) <= 253 and all(_LABEL.fullmatch(label) for label in name.split("."))


def check(services: Services, addresses: Sequence[Interface], where: str) -> None:
    """ConfigError when they make no sense together. `where`: whose services, for the error's text."""
    if not addresses and services != Services():
        raise ConfigError(f"{where}: services need an address of their own; give addr=")
    for address in {address.ip for address in addresses}:
        if address.is_multicast or address.is_unspecified or address.is_loopback:
            raise ConfigError(f"{where}: {address} cannot be a station's address; give another addr=")
    if services.dhcp4 is not None:
        _check_dhcp4(services.dhcp4, addresses, f"{where}: dhcp")
    if services.ra is not None:
        _check_ra(services.ra, addresses, f"{where}: ra")
    if services.dns is not None:
        _check_dns(services.dns, f"{where}: dns")


def server_interface(config: Dhcp4Config, addresses: Sequence[Interface]) -> IPv4Interface | None:
    """The station's address in the range's network."""
    for address in addresses:
        if isinstance(address, IPv4Interface) and config.first in address.network:
            return address
    return None


def ra_interval(config: RaConfig) -> int:
    """`interval`, or what stands for it (RFC 4861 6.2.1: the lifetime is thrice as long)."""
    if config.interval is not None:
        return config.interval
    return max(4, min(600, config.lifetime // 3)) if config.lifetime else 600


def _check_dhcp4(config: Dhcp4Config, addresses: Sequence[Interface], where: str) -> None:
    own = server_interface(config, addresses)
    if own is None:
        raise ConfigError(f"{where}: the range begins at {config.first}; give an addr= in its network")
    network = own.network
    if not (
        config.first <= config.last and _is_host(config.first, network) and _is_host(config.last, network)
    ):
        raise ConfigError(f"{where}: range {config.first}-{config.last} is none in {network}; give another")
    if int(config.last) - int(config.first) >= MOST_ADDRESSES:
        raise ConfigError(
            f"{where}: range {config.first}-{config.last}: give at most {MOST_ADDRESSES} addresses"
        )
    seen: set[object] = set()
    for one in config.reservations:
        if not _is_host(one.address, network) or any(one.address == mine.ip for mine in addresses):
            raise ConfigError(
                f"{where}: host {one.address}: give another address of {network} than the server's"
            )
        if one.mac is None and one.hostname is None:
            raise ConfigError(f"{where}: host {one.address}: give a MAC address or a host name")
        if one.hostname is not None and not is_name(one.hostname):
            raise ConfigError(f"{where}: host {one.hostname!r} is no host name; give letters, digits and -")
        for key in (one.address, one.mac, one.hostname and one.hostname.lower()):
            if key is not None and key in seen:
                shown = key.hex(":") if isinstance(key, bytes) else key
                raise ConfigError(f"{where}: {shown} is in two hosts; name it once")
            seen.add(key)
    for name in config.names.values():
        if not is_name(name) or "." in name or name != name.lower():
            raise ConfigError(f"{where}: {name!r} is no host name; give small letters, digits and -")
    for name, seconds in (
        ("lease", config.lease),
        ("offer", config.offer),
        ("quarantine", config.quarantine),
    ):
        if not 1 <= seconds < _INFINITE_S:
            raise ConfigError(f"{where}: {name} is {seconds} s; give at least a second and less than 2^32-1")
    if config.mtu is not None and not 68 <= config.mtu <= 65535:
        raise ConfigError(f"{where}: mtu is {config.mtu}; give 68 to 65535")
    if config.domain is not None and not is_name(config.domain):
        raise ConfigError(f"{where}: domain {config.domain!r} is no domain name; give letters, digits and -")
    if len(config.dns or ()) > 8 or len(config.routes) > 16:
        raise ConfigError(f"{where}: give at most 8 name servers and 16 routes, so that they fit a reply")


def _is_host(address: IPv4Address, network: IPv4Network) -> bool:
    ends = (network.network_address, network.broadcast_address) if network.prefixlen < 31 else ()
    return address in network and address not in ends


def _check_ra(config: RaConfig, addresses: Sequence[Interface], where: str) -> None:
    if config.prefixes is None and not any(
        isinstance(one, IPv6Interface) and not one.is_link_local for one in addresses
    ):
        raise ConfigError(
            f"{where}: there is no prefix to announce; give an IPv6 addr= that is not link-local"
        )
    if len(config.prefixes or ()) > 16 or len(config.dns or ()) > 8 or len(config.domains or ()) > 8:
        raise ConfigError(
            f"{where}: give at most 16 prefixes, 8 name servers and 8 domains, so that they fit"
        )
    interval = ra_interval(config)
    if not 4 <= interval <= 1800:  # RFC 4861 6.2.1
        raise ConfigError(f"{where}: interval is {interval} s; give 4 to 1800")
    if config.lifetime != 0 and not interval <= config.lifetime <= 65535:  # RFC 8319 4
        raise ConfigError(f"{where}: lifetime is {config.lifetime} s; give 0, or {interval} to 65535")
    if not 0 <= config.preferred <= config.valid <= _INFINITE_S:
        raise ConfigError(
            f"{where}: preferred {config.preferred} s and valid {config.valid} s; give valid the longer"
        )
    if config.mtu is not None and not 1280 <= config.mtu <= 65535:
        raise ConfigError(f"{where}: mtu is {config.mtu}; give 1280 to 65535")
    if sum(map(len, config.domains or ())) > 400:
        raise ConfigError(f"{where}: the domains have more than 400 characters; give fewer, so that they fit")
    for domain in config.domains or ():
        if not is_name(domain):
            raise ConfigError(f"{where}: domain {domain!r} is no domain name; give letters, digits and -")


def _check_dns(config: DnsConfig, where: str) -> None:
    if not is_name(config.domain) or len(config.domain) > LONGEST_DOMAIN:
        raise ConfigError(f"{where}: domain {config.domain!r} is no domain name; give letters, digits and -")
    for name in config.records:
        if not is_name(f"{name}.{config.domain}"):
            raise ConfigError(f"{where}: record {name!r} is no host name; give letters, digits and -")
    if not 0 <= config.ttl < 2**31:
        raise ConfigError(f"{where}: ttl is {config.ttl} s; give 0 or more")
