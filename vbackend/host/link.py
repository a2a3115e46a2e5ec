"""Links and addresses of this host, over netlink. The only importer of pyroute2.

Works in the namespace of the calling thread (see netns.py) and blocks for a netlink round trip. Not here: what is
changed and how it is undone (changes.py), device descriptors (device.py).
"""

import errno
import os
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from types import TracebackType
from typing import Any, Final, Self

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from vbackend.errors import HostError

__all__ = ["Address", "LinkInfo", "Links", "TunFacts"]

Address = IPv4Interface | IPv6Interface

_IFF_UP: Final = 1
_IFA_F_NODAD: Final = 0x02  # linux/if_addr.h: usable at once, without duplicate address detection
_AF_INET: Final = 2
_AF_INET6: Final = 10
_TABLE_MAIN: Final = 254  # linux/rtnetlink.h
_RTN_UNICAST: Final = 1
_TYPE_TUN: Final = 1  # IFLA_TUN_TYPE is IFF_TUN or IFF_TAP (drivers/net/tun.c: tun_fill_info)

_REMEDIES: Final = {
    errno.EEXIST: "see `ip address` and `ip link`, and take away what is there",
    errno.ENODEV: "the device has gone; start again",
    errno.EBUSY: "somebody else uses it; see `ip -d link`",
    errno.EINVAL: "the device does not take that; give another value",
    errno.ERANGE: "see the limits in `ip -d link`; give another value",
    errno.EADDRNOTAVAIL: "the device refuses that address; give a unicast one",
}


@dataclass(frozen=True, slots=True)
class TunFacts:
    """How a tap or tun was last attached; a persistent one keeps that."""

    mode: str  # "tap" or "tun"
    owner: int | None  # user number
    packet_info: bool
    vnet_header: bool
    multi_queue: bool


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """A link as it is now."""

    index: int
    name: str
    mac: str
    mtu: int
    up: bool
    master: int | None  # index of the bridge it is on
    kind: str  # "tun" (taps too), "bridge", "" for physical ones
    tun: TunFacts | None = None  # only of kind "tun"


class Links:
    """A netlink socket; use it in a `with`."""

    def __init__(self) -> None:
        self._netlink = IPRoute(groups=0)  # answers only: nobody here reads events

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._netlink.close()

    # What there is

    def find(self, name: str) -> LinkInfo | None:
        """The link of that name, or None."""
        return self._look_up(name, ifname=name)

    def at(self, index: int) -> LinkInfo | None:
        """The link of that number, or None."""
        return self._look_up(f"device number {index}", index=index)

    def get(self, name: str) -> LinkInfo:
        """The link of that name. HostError: there is none."""
        link = self.find(name)
        if link is None:
            raise HostError(f"there is no network device {name!r}")
        return link

    def members(self, bridge: int) -> list[str]:
        """Names of the links on a bridge."""
        return [
            _info(link).name for link in self._netlink.get_links() if link.get_attr("IFLA_MASTER") == bridge
        ]

    def has_address(self, index: int, address: Address) -> bool:
        """Whether a link has that address as its own, whatever its prefix."""
        return any(
            str(address.ip) == (entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS"))
            for entry in self._netlink.get_addr(index=index, family=_family(address))
        )

    def names(self) -> list[str]:
        """The names of all links."""
        return [link.get_attr("IFLA_IFNAME") for link in self._netlink.get_links()]

    def routed(self, version: int) -> tuple[set[str], set[str]]:
        """The links with a default route, and those with any unicast route of the main table, of an IP version.

        Link-local routes do not count.
        """
        names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in self._netlink.get_links()}
        defaults, others = set(), set()
        family = _AF_INET if version == 4 else _AF_INET6
        for route in self._netlink.get_routes(family=family, table=_TABLE_MAIN):
            if route["type"] != _RTN_UNICAST or str(route.get_attr("RTA_DST")).startswith("fe80:"):
                continue
            hops = [hop["oif"] for hop in route.get_attr("RTA_MULTIPATH") or ()] or [
                route.get_attr("RTA_OIF")
            ]
            found = {names[index] for index in hops if index in names}
            others |= found
            if route["dst_len"] == 0:
                defaults |= found
        return defaults, others

    def _look_up(self, what: str, /, **which: Any) -> LinkInfo | None:
        try:
            found = list(self._netlink.link("get", **which))
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return None
            raise _refused(f"look up {what}", error) from error
        return _info(found[0]) if found else None

    # Changes; each raises HostError with what was attempted, on what, and what to try

    def set_link(
        self, link: LinkInfo, *, up: bool | None = None, mtu: int | None = None, mac: str | None = None
    ) -> None:
        """Change what is not None."""
        attributes: dict[str, Any] = {"mtu": mtu, "address": mac}
        if up is not None:
            attributes["state"] = "up" if up else "down"
        wanted = {key: value for key, value in attributes.items() if value is not None}
        if wanted:
            what = " ".join(value if key == "state" else f"{key} {value}" for key, value in wanted.items())
            command = f"ip link set dev {link.name} {what}"
            self._change(f"set {link.name} {what}", command, "link", "set", index=link.index, **wanted)

    def set_master(self, link: LinkInfo, bridge: int | None) -> None:
        """Put a link on a bridge, or take it off (None)."""
        what = f"put {link.name} on a bridge" if bridge else f"take {link.name} off its bridge"
        command = f"ip link set dev {link.name} " + (f"master {bridge}" if bridge else "nomaster")
        self._change(what, command, "link", "set", index=link.index, master=bridge or 0)

    def add_bridge(self, name: str, mac: str) -> LinkInfo:
        """Make a bridge and set it up. Given at its making, the MAC stays whatever joins and leaves."""
        command = f"ip link add {name} type bridge"
        self._change(f"make bridge {name}", command, "link", "add", ifname=name, kind="bridge", address=mac)
        self.set_link(self.get(name), up=True)
        return self.get(name)

    def remove(self, link: LinkInfo) -> None:
        """Delete a link."""
        self._change(f"remove {link.name}", f"ip link del {link.name}", "link", "del", index=link.index)

    def add_address(self, link: LinkInfo, address: Address, peer: Address | None = None) -> None:
        """Give a link an address, usable at once; with `peer`, of a point-to-point link."""
        flags = {"flags": _IFA_F_NODAD} if address.version == 6 else {}
        place = f"{address.ip} peer {peer}" if peer else str(address)
        self._change(
            f"add address {place} to {link.name}",
            f"ip address add {place} dev {link.name}",
            "addr",
            "add",
            **_address(link.index, address, peer),
            **flags,
        )

    def remove_address(self, link: LinkInfo, address: Address, peer: Address | None = None) -> None:
        """Take an address away."""
        command = f"ip address del {address} dev {link.name}"
        self._change(f"remove {address}", command, "addr", "del", **_address(link.index, address, peer))

    def add_default_route(self, link: LinkInfo, gateway: IPv4Address | IPv6Address) -> None:
        """Send what no other route is for to a gateway on a link."""
        version, command = gateway.version, f"ip route add default via {gateway} dev {link.name}"
        family = _AF_INET if version == 4 else _AF_INET6
        any_address = {"dst": "default", "family": family}
        what = f"send IPv{version} by {link.name}"
        self._change(what, command, "route", "add", **any_address, gateway=str(gateway), oif=link.index)

    def _change(self, what: str, command: str, noun: str, verb: str, /, **attributes: Any) -> None:
        """`command`: what root could do in our place."""
        try:
            getattr(self._netlink, noun)(verb, **attributes)
        except NetlinkError as error:
            raise _refused(what, error, command) from error


def _refused(what: str, error: NetlinkError, command: str | None = None) -> HostError:
    if error.code in (errno.EPERM, errno.EACCES):
        remedy = "it needs CAP_NET_ADMIN: run as root"
        remedy += f", or have root do `{command}` once" if command else ""
    else:
        remedy = _REMEDIES.get(error.code, "see `dmesg`")
    return HostError(f"cannot {what}: {os.strerror(error.code)}; {remedy}")


def _address(index: int, address: Address, peer: Address | None) -> dict[str, Any]:
    """An address as RTM_NEWADDR has it: of a point-to-point link, IFA_LOCAL is ours and IFA_ADDRESS the peer's."""
    if peer is None:
        return {
            "index": index,
            "family": _family(address),
            "address": str(address.ip),
            "prefixlen": address.network.prefixlen,
        }
    return {
        "index": index,
        "family": _family(address),
        "local": str(address.ip),
        "address": str(peer.ip),
        "prefixlen": peer.network.prefixlen,
    }


def _family(address: Address) -> int:
    return _AF_INET if address.version == 4 else _AF_INET6


def _info(link: Any) -> LinkInfo:
    kind = link.get(("linkinfo", "kind")) or ""
    data = link.get(("linkinfo", "data"))
    return LinkInfo(
        index=link["index"],
        name=link.get_attr("IFLA_IFNAME"),
        mac=link.get_attr("IFLA_ADDRESS") or "",
        mtu=link.get_attr("IFLA_MTU"),
        up=bool(link["flags"] & _IFF_UP),
        master=link.get_attr("IFLA_MASTER"),
        kind=kind,
        tun=_tun_facts(data) if kind == "tun" and data is not None else None,
    )


def _tun_facts(data: Any) -> TunFacts:
    return TunFacts(
        mode="tun" if data.get_attr("IFLA_TUN_TYPE") == _TYPE_TUN else "tap",
        owner=data.get_attr("IFLA_TUN_OWNER"),
        packet_info=bool(data.get_attr("IFLA_TUN_PI")),
        vnet_header=bool(data.get_attr("IFLA_TUN_VNET_HDR")),
        multi_queue=bool(data.get_attr("IFLA_TUN_MULTI_QUEUE")),
    )
