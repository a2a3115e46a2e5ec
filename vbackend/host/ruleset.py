"""What a NAT of a lab says to nftables, as text. Pure: nothing here touches the host.

One table for each NAT, `vbackend-LAB.SEGMENT` of the family inet, so nothing of the host's own firewall is read or
changed. But that firewall counts too: a packet that any table drops is dropped, whatever ours says of it.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Literal

from vbackend.errors import ConfigError
from vbackend.ports.spec import Address

__all__ = [
    "TABLE_PREFIX",
    "Forward",
    "IPAddress",
    "LookUp",
    "NatConfig",
    "gateway_ifname",
    "gateway_port",
    "parse_forward",
    "resolve",
    "ruleset",
    "table_name",
    "without_table",
]

IPAddress = IPv4Address | IPv6Address
LookUp = Callable[[str], Iterable[IPAddress]]  # the addresses of a guest, by its name

TABLE_PREFIX: Final = "vbackend-"

_HOST: Final = r"(?:\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)"
_FORWARD: Final = re.compile(rf"(tcp|udp):(?:({_HOST}):)?(\d{{1,5}}):({_HOST}):(\d{{1,5}})")
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")  # a dot would make LAB.SEGMENT ambiguous
_IFNAME: Final = re.compile(r'[^\s"/:%]{1,15}')


@dataclass(frozen=True, slots=True)
class Forward:
    """What arrives for a port of the host goes to a port of a guest.

    `listen` None: at any address of the host; 0.0.0.0 or ::, at any of that version.
    """

    protocol: Literal["tcp", "udp"]
    listen: IPAddress | None
    port: int
    host: str  # an address, or a name that `resolve` looks up
    host_port: int


@dataclass(frozen=True, slots=True)
class NatConfig:
    """`addr`: of the gateway, with the guests' networks. IP versions that it has none of are not translated."""

    addr: tuple[Address, ...]
    forwards: tuple[Forward, ...] = ()

    @property
    def versions(self) -> tuple[int, ...]:
        return tuple(sorted({address.version for address in self.addr}))


def parse_forward(text: str) -> Forward:
    """`PROTOCOL:[LISTEN:]PORT:HOST:PORT`, IPv6 addresses in brackets. ConfigError: it is none."""
    found = _FORWARD.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"forward {text!r}: give tcp:PORT:GUEST:PORT or udp:ADDRESS:PORT:GUEST:PORT, e.g. tcp:8080:h1:80"
        )
    protocol, listen, port, host, host_port = found.groups()
    ports = []
    for number in (port, host_port):
        if not 0 < int(number) < 65536:
            raise ConfigError(f"forward {text!r}: port {number} is none; give 1 to 65535")
        ports.append(int(number))
    try:
        address = None if listen is None else ip_address(listen.strip("[]"))
    except ValueError:
        raise ConfigError(
            f"forward {text!r}: {listen} is no address of the host; give one, or leave it out for all of them"
        ) from None
    if address == IPv6Address("::1"):
        raise ConfigError(f"forward {text!r}: ::1 leads to no other device; give 127.0.0.1")
    return Forward("tcp" if protocol == "tcp" else "udp", address, ports[0], host.strip("[]"), ports[1])


def resolve(forward: Forward, look_up: LookUp) -> tuple[IPAddress, ...]:
    """The guest's addresses: at most one of each IP version, only of the version of `listen` where that is given.

    ConfigError: it has none.
    """
    try:
        known: Iterable[IPAddress] = (ip_address(forward.host),)
    except ValueError:
        known = look_up(forward.host)
    by_version: dict[int, IPAddress] = {}
    for address in known:
        if forward.listen is None or forward.listen.version == address.version:
            by_version.setdefault(address.version, address)
    if not by_version:
        kind = "address" if forward.listen is None else f"IPv{forward.listen.version} address"
        raise ConfigError(
            f"forward to {forward.host}:{forward.host_port}: no {kind} of {forward.host} is known; give the guest an "
            "addr= or a reservation, or put the address in the place of the name"
        )
    return tuple(by_version[version] for version in sorted(by_version))


def gateway_ifname(lab: str, segment: str) -> str:
    """The gateway tap's name: as long as a device name may be, and different for each segment of each lab."""
    return f"vb{hashlib.sha256(f'{lab}/{segment}'.encode()).hexdigest()[:10]}"


def gateway_port(lab: str, segment: str, config: NatConfig) -> str:
    """The tap on the switch that guests use as their gateway, as a PORT argument."""
    keys = [f"addr={address}" for address in config.addr]
    return ",".join([f"tap:{gateway_ifname(lab, segment)}", *keys, "name=nat"])


def table_name(lab: str, segment: str) -> str:
    """The table of one NAT. ConfigError: a name that nftables would not take, or take for something else."""
    for what, name in (("lab", lab), ("switch", segment)):
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{what} {name!r}: give letters, digits, '-' and '_'")
    return f"{TABLE_PREFIX}{lab}.{segment}"


def without_table(table: str) -> str:
    """Deletes the table, also when it is not there."""
    return f"add table inet {table}\ndelete table inet {table}\n"


def ruleset(
    table: str, ifname: str, versions: Sequence[int], forwards: Sequence[tuple[Forward, IPAddress]] = ()
) -> str:
    """The whole table, in the place of one that may be left from before; nftables takes all of it or nothing.

    What comes from the gateway tap `ifname` may go anywhere, masqueraded. Only answers and forwarded ports come in.
    `versions`: of IP, that are translated; the other one does not pass. ConfigError: a device name to mistake.
    """
    if not _IFNAME.fullmatch(ifname):
        raise ConfigError(f"device name {ifname!r}: it has characters that nftables may mistake")
    tap, protocols = f'"{ifname}"', ", ".join({4: "ipv4", 6: "ipv6"}[version] for version in versions)
    redirected = [_redirection(forward, target) for forward, target in forwards]
    chains = [
        _chain(
            "forward",
            "type filter hook forward priority filter",
            f"meta nfproto != {{ {protocols} }} iifname {tap} drop",
            f"iifname {tap} accept",
            f"oifname {tap} ct state established,related accept",
            f"oifname {tap} ct status dnat accept",
            f"oifname {tap} drop",
        ),
        _chain(
            "postrouting",
            "type nat hook postrouting priority srcnat",
            f"iifname {tap} oifname != {tap} masquerade",
            *([f"oifname {tap} ip saddr 127.0.0.0/8 masquerade"] if redirected else []),
        ),
    ]
    if redirected:
        chains += [
            # The tap takes 127.0.0.0/8 then (route_localnet), which guests must not use; answers get there later.
            _chain(
                "loopback",
                "type filter hook prerouting priority raw",
                f"iifname {tap} ip daddr 127.0.0.0/8 drop",
            ),
            _chain(
                "prerouting",
                "type nat hook prerouting priority dstnat",
                *(f"iifname != {tap} {rule}" for rule in redirected),
            ),
            _chain("output", "type nat hook output priority -100", *redirected),
        ]
    body = "\n".join(chains)
    return f"{without_table(table)}table inet {table} {{\n{body}\n}}\n"


def _chain(name: str, hook: str, *rules: str) -> str:
    lines = [f"\t\t{rule}" for rule in (f"{hook}; policy accept;", *rules)]
    return "\n".join([f"\tchain {name} {{", *lines, "\t}"])


def _redirection(forward: Forward, target: IPAddress) -> str:
    family, to = ("ip", f"{target}") if target.version == 4 else ("ip6", f"[{target}]")
    if forward.listen is not None and not forward.listen.is_unspecified:
        at = f"{family} daddr {forward.listen}"
    elif target.version == 4:
        at = "meta nfproto ipv4 fib daddr type local"
    else:  # answers to ::1 would find no route
        at = "ip6 daddr != ::1 fib daddr type local"
    return f"{at} {forward.protocol} dport {forward.port} dnat {family} to {to}:{forward.host_port}"
