"""What vbackend changed on the host, as data: each change knows how it is undone, now or by a later process.

Only changes that outlive a descriptor are recorded: a device of ours vanishes with its fd and takes its addresses
along. Rule: what is gone already, or has been changed again by somebody else, is left alone.
"""

import errno
import time
from ipaddress import ip_interface
from pathlib import Path
from typing import Annotated, Final, Literal, assert_never

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from vbackend.errors import HostError
from vbackend.host import nft
from vbackend.host.device import DeviceFlags, attach, set_header, set_offloads
from vbackend.host.forwarding import read_setting, setting_path
from vbackend.host.link import Links
from vbackend.host.ruleset import TABLE_PREFIX, without_table

__all__ = [
    "AddressAdded",
    "AnyChange",
    "BridgeMade",
    "JoinedBridge",
    "LinkSet",
    "SwitchSet",
    "TableMade",
    "TunAttached",
    "disable_ipv6_path",
    "parse_change",
    "undo",
]

_ATTACH_PATIENCE_S: Final = 0.5  # the engine closes its descriptor within one turn of a worker


class _Change(BaseModel):
    """`inode` tells the namespace from a later one of the same name; `netns` None: the process's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    netns: str | None
    inode: int


class _OfDevice(_Change):
    """On a device that was there before; found again by its number, which the kernel does not use twice."""

    ifname: str
    ifindex: int


class BridgeMade(_Change):
    """A bridge that was not there before. Its MAC was drawn at random, so it also says that it is ours."""

    kind: Literal["bridge-made"] = "bridge-made"
    bridge: str
    mac: str


class AddressAdded(_OfDevice):
    kind: Literal["address-added"] = "address-added"
    address: str
    peer: str | None = None


class JoinedBridge(_OfDevice):
    kind: Literal["joined-bridge"] = "joined-bridge"
    bridge: str


class LinkSet(_OfDevice):
    """A setting, as it was and as we made it."""

    kind: Literal["link-set"] = "link-set"
    setting: Literal["up", "mtu", "mac", "disable_ipv6"]
    was: str
    now: str


class TunAttached(_OfDevice):
    """How a persistent tap or tun was set before we attached: it keeps the flags of its last attachment."""

    kind: Literal["tun-attached"] = "tun-attached"
    flags: int  # DeviceFlags
    header: int  # bytes


class TableMade(_Change):
    """A table of nftables, of the family inet; its name begins with TABLE_PREFIX, so it is ours."""

    kind: Literal["table-made"] = "table-made"
    table: str


class SwitchSet(_Change):
    """A switch below /proc/sys that NATs share: the last one that goes puts it back."""

    kind: Literal["switch-set"] = "switch-set"
    path: str
    was: str
    now: str


AnyChange = BridgeMade | AddressAdded | JoinedBridge | LinkSet | TunAttached | TableMade | SwitchSet
_parser: TypeAdapter[AnyChange] = TypeAdapter(Annotated[AnyChange, Field(discriminator="kind")])


def parse_change(line: str) -> AnyChange:
    """A change from its JSON form. ValueError (pydantic's): it is none."""
    return _parser.validate_json(line)


def disable_ipv6_path(ifname: str) -> Path:
    """The switch for IPv6 on one device, in the namespace of the thread that opens it."""
    return Path("/proc/sys/net/ipv6/conf") / ifname / "disable_ipv6"


def undo(change: AnyChange, links: Links) -> bool:
    """Put things back as they were; `links` is in the change's namespace. Blocks.

    False: not yet, others use it still. HostError, OSError: the host refused.
    """
    match change:
        case BridgeMade():
            bridge = links.find(change.bridge)
            if bridge is None or bridge.kind != "bridge" or bridge.mac != change.mac:
                return True
            if links.members(bridge.index):
                return False
            links.remove(bridge)
        case AddressAdded():
            link, address = links.at(change.ifindex), ip_interface(change.address)
            if link is not None and links.has_address(link.index, address):
                peer = None if change.peer is None else ip_interface(change.peer)
                links.remove_address(link, address, peer)
        case JoinedBridge():
            link, bridge = links.at(change.ifindex), links.find(change.bridge)
            if link is not None and bridge is not None and link.master == bridge.index:
                links.set_master(link, None)
        case LinkSet():
            _put_back(change, links)
        case TunAttached():
            link = links.at(change.ifindex)
            if link is not None and link.tun is not None:
                _reattach(link.name, change)
        case TableMade():
            nft.apply(f"remove table {change.table}", without_table(change.table))
        case SwitchSet():
            return _switch_back(change)
        case _:
            assert_never(change)
    return True


def _put_back(change: LinkSet, links: Links) -> None:
    link = links.at(change.ifindex)
    if link is None:
        return
    match change.setting:
        case "up":
            if link.up:
                links.set_link(link, up=False)
        case "mtu":
            if link.mtu == int(change.now):
                links.set_link(link, mtu=int(change.was))
        case "mac":
            if link.mac == change.now:
                links.set_link(link, mac=change.was)
        case "disable_ipv6":
            path = disable_ipv6_path(link.name)
            if path.read_text().strip() == change.now:
                path.write_text(change.was)
        case _:
            assert_never(change.setting)


def _switch_back(change: SwitchSet) -> bool:
    """Looks twice for other NATs, as each of them makes its table first and then looks at the switches."""
    if read_setting(change.path) != change.now:
        return True
    if _nats_left():
        return False
    setting_path(change.path).write_text(change.was)
    if not _nats_left():
        return True
    setting_path(change.path).write_text(change.now)
    return False


def _nats_left() -> bool:
    return any(table.startswith(TABLE_PREFIX) for table in nft.tables())


def _reattach(ifname: str, change: TunAttached) -> None:
    deadline = time.monotonic() + _ATTACH_PATIENCE_S
    while True:
        try:
            fd = attach(ifname, DeviceFlags(change.flags))
            break
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise HostError(
                    f"cannot put the header of {ifname} back: {error.strerror}; `ip tuntap` makes it anew"
                ) from error
        time.sleep(0.005)
    with fd:
        set_header(fd, change.header)
        set_offloads(fd, wanted=False)
