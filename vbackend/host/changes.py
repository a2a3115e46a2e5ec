"""What vbackend changed on the host, as data: each change knows how it is undone, now or by a later process.

Only changes that outlive a descriptor are recorded: a device of ours vanishes with its fd and takes its addresses
along. Undoing is tolerant: what is gone already, or has been changed again by somebody else, is left alone.
"""

from ipaddress import ip_interface
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from vbackend.host.link import Links

__all__ = ["AddressAdded", "BridgeMade", "Change", "JoinedBridge", "LinkSet", "parse_change", "undo"]


class _Change(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    netns: str | None


class BridgeMade(_Change):
    """A bridge that was not there before."""

    kind: Literal["bridge-made"] = "bridge-made"
    bridge: str


class AddressAdded(_Change):
    """An address on a device that was there before."""

    kind: Literal["address-added"] = "address-added"
    ifname: str
    ifindex: int
    address: str
    peer: str | None = None


class JoinedBridge(_Change):
    """A device that was there before is on a bridge now."""

    kind: Literal["joined-bridge"] = "joined-bridge"
    ifname: str
    ifindex: int
    bridge: str
    before: int | None  # index of the bridge it was on


class LinkSet(_Change):
    """Settings of a device that was there before; the old values, None where nothing changed."""

    kind: Literal["link-set"] = "link-set"
    ifname: str
    ifindex: int
    up: bool | None = None
    mtu: int | None = None
    mac: str | None = None


Change = Annotated[BridgeMade | AddressAdded | JoinedBridge | LinkSet, Field(discriminator="kind")]
_parser: TypeAdapter[BridgeMade | AddressAdded | JoinedBridge | LinkSet] = TypeAdapter(Change)


def parse_change(line: str) -> BridgeMade | AddressAdded | JoinedBridge | LinkSet:
    """A change from its JSON form. ValueError (pydantic's): it is none."""
    return _parser.validate_json(line)


def undo(change: BridgeMade | AddressAdded | JoinedBridge | LinkSet, links: Links) -> None:
    """Put things back as they were; `links` is in the change's namespace. HostError: the host refused."""
    match change:
        case BridgeMade():
            bridge = links.find(change.bridge)
            if bridge is not None and bridge.kind == "bridge" and not links.members(bridge.index):
                links.remove(bridge)
        case AddressAdded():
            link = links.find(change.ifname)
            address = ip_interface(change.address)
            if link is not None and link.index == change.ifindex and links.has_address(link.index, address):
                links.remove_address(
                    link.index, address, None if change.peer is None else ip_interface(change.peer)
                )
        case JoinedBridge():
            link, bridge = links.find(change.ifname), links.find(change.bridge)
            ours = link is not None and bridge is not None and link.index == change.ifindex
            if ours and link is not None and bridge is not None and link.master == bridge.index:
                links.set_master(link, change.before)
        case LinkSet():
            link = links.find(change.ifname)
            if link is not None and link.index == change.ifindex:
                links.set_link(link, up=change.up, mtu=change.mtu, mac=change.mac)
