"""Links and addresses of this host, over netlink. The only importer of pyroute2.

Works in the namespace of the calling thread (see netns.py) and blocks for a netlink round trip. Not here: what is
changed and how it is undone (changes.py), device descriptors (device.py).
"""

import errno
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from types import TracebackType
from typing import Any, Final, Self

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from vbackend.errors import HostError

__all__ = ["Address", "LinkInfo", "Links"]

Address = IPv4Interface | IPv6Interface

_IFF_UP: Final = 1
_IFA_F_NODAD: Final = 0x02  # linux/if_addr.h: usable at once, without duplicate address detection
_AF_INET: Final = 2
_AF_INET6: Final = 10

_REMEDIES: Final = {
    errno.EPERM: "it needs CAP_NET_ADMIN: run as root",
    errno.EACCES: "it needs CAP_NET_ADMIN: run as root",
    errno.EEXIST: "it exists already",
    errno.ENODEV: "the device has gone",
    errno.EBUSY: "somebody else uses it",
}


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


class Links:
    """A netlink socket; use it in a `with`."""

    def __init__(self) -> None:
        self._netlink = IPRoute()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._netlink.close()

    # What there is

    def find(self, name: str) -> LinkInfo | None:
        """The link of that name, or None."""
        try:
            found = list(self._netlink.link("get", ifname=name))
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return None
            raise _refused(f"look up {name}", error) from error
        return _info(found[0]) if found else None

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
        """Whether a link has that address, whatever its prefix."""
        return any(
            str(address.ip) in (entry.get_attr("IFA_LOCAL"), entry.get_attr("IFA_ADDRESS"))
            for entry in self._netlink.get_addr(index=index, family=_family(address))
        )

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
            what = ", ".join(f"{key} {value}" for key, value in wanted.items())
            self._change(f"set {what} on {link.name}", "link", "set", index=link.index, **wanted)

    def set_master(self, link: LinkInfo, bridge: int | None) -> None:
        """Put a link on a bridge, or take it off (None)."""
        what = f"put {link.name} on a bridge" if bridge else f"take {link.name} off its bridge"
        self._change(what, "link", "set", index=link.index, master=bridge or 0)

    def add_bridge(self, name: str) -> LinkInfo:
        """Make a bridge and set it up."""
        self._change(f"make bridge {name}", "link", "add", ifname=name, kind="bridge")
        bridge = self.get(name)
        self.set_link(bridge, up=True)
        return bridge

    def remove(self, link: LinkInfo) -> None:
        """Delete a link."""
        self._change(f"remove {link.name}", "link", "del", index=link.index)

    def add_address(self, link: LinkInfo, address: Address, peer: Address | None = None) -> None:
        """Give a link an address, usable at once; with `peer`, of a point-to-point link."""
        flags = {"flags": _IFA_F_NODAD} if address.version == 6 else {}
        self._change(
            f"add address {address} to {link.name}",
            "addr",
            "add",
            **_address(link.index, address, peer),
            **flags,
        )

    def remove_address(self, index: int, address: Address, peer: Address | None = None) -> None:
        """Take an address away."""
        self._change(f"remove address {address}", "addr", "del", **_address(index, address, peer))

    def _change(self, what: str, noun: str, verb: str, /, **attributes: Any) -> None:
        try:
            getattr(self._netlink, noun)(verb, **attributes)
        except NetlinkError as error:
            raise _refused(what, error) from error


def _refused(what: str, error: NetlinkError) -> HostError:
    text = error.args[1] if len(error.args) > 1 else str(error)
    remedy = _REMEDIES.get(error.code)
    return HostError(f"cannot {what}: {remedy or text}")


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
    details = link.get_attr("IFLA_LINKINFO")
    return LinkInfo(
        index=link["index"],
        name=link.get_attr("IFLA_IFNAME"),
        mac=link.get_attr("IFLA_ADDRESS") or "",
        mtu=link.get_attr("IFLA_MTU"),
        up=bool(link["flags"] & _IFF_UP),
        master=link.get_attr("IFLA_MASTER"),
        kind=(details.get_attr("IFLA_INFO_KIND") if details else None) or "",
    )
