"""One tap or tun, from what is wanted to a device that carries frames. Runs in the device's namespace, and blocks.

Not here: who owns the result and when it is undone (tap.py). Rule: what outlives the device's descriptor is noted
before it is done. On a device of ours that is only a bridge: the rest goes with the device.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypedDict

from vbackend.errors import ConfigError, HostError
from vbackend.fds import OwnedFd
from vbackend.host.changes import (
    AddressAdded,
    AnyChange,
    BridgeMade,
    JoinedBridge,
    LinkSet,
    TunAttached,
    disable_ipv6_path,
)
from vbackend.host.device import (
    VNET_HEADER_LEN,
    DeviceFlags,
    Offloads,
    attach,
    header_flags,
    header_length,
    open_device,
    set_header,
    set_offloads,
)
from vbackend.host.link import Address, LinkInfo, Links, TunFacts

__all__ = ["Made", "Wanted", "check_addresses", "set_up"]

_IPV6_MIN_MTU: Final = 1280  # RFC 8200 section 5; below it the kernel turns IPv6 off


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a tap and a tun have in common. `addresses`: each with its peer, if the link is point-to-point."""

    kind: Literal["tap", "tun"]
    ifname: str
    netns: str | None
    inode: int  # of the namespace
    owner: int | None
    mtu: int | None
    mac: str | None
    made_mac: str | None  # of a device that is made, when `mac` is None
    bridge: str | None
    offloads: bool  # all the host has; frames have a virtio-net header then
    packet_info: bool
    addresses: Sequence[tuple[Address, Address | None]]


@dataclass(frozen=True, slots=True)
class Made:
    fd: OwnedFd
    link: LinkInfo
    created: bool
    offloads: Offloads


def check_addresses(
    what: str, addresses: Sequence[Address], peers: Sequence[Address], mtu: int | None
) -> None:
    """ConfigError where the addresses cannot be had together. Pure."""
    for peer in peers:
        if peer.version not in {address.version for address in addresses}:
            raise ConfigError(
                f"{what}: peer={peer.ip} has no address of ours; give addr= with an IPv{peer.version} address too"
            )
    if mtu is not None and mtu < _IPV6_MIN_MTU and any(address.version == 6 for address in addresses):
        raise ConfigError(f"{what}: mtu={mtu} is too small for IPv6; give at least {_IPV6_MIN_MTU}")


def set_up(wanted: Wanted, note: Callable[[AnyChange], None]) -> Made:
    """Make or attach the device. When it raises, the device is closed; what was noted is the caller's to undo.

    HostError, OSError: the host refused.
    """
    with Links() as links:
        before = links.find(wanted.ifname)
        _check(wanted, before)
        if before is not None and before.tun is not None:
            _note_header(wanted, before, before.tun, note)
        fd = open_device(
            wanted.kind,
            wanted.ifname,
            existing=None if before is None else before.tun,
            owner=wanted.owner,
            vnet_hdr=wanted.offloads,
            packet_info=wanted.packet_info,
        )
        try:
            link = links.get(wanted.ifname)
            offloads = _Setup(links, link, wanted, note, before).run(fd)
            return Made(fd, links.get(wanted.ifname), before is None, offloads)
        except BaseException:
            fd.close()
            raise


def _check(wanted: Wanted, before: LinkInfo | None) -> None:
    """What would go wrong with a device that is there."""
    if before is None:
        return
    if before.tun is None or before.tun.mode != wanted.kind:
        found = "no tap or tun" if before.tun is None else f"a {before.tun.mode}"
        raise HostError(
            f"cannot attach {wanted.kind} device {wanted.ifname}: a device of that name exists and is {found}; "
            "take another name"
        )
    if wanted.owner is not None and wanted.owner != before.tun.owner:
        whose = "nobody" if before.tun.owner is None else f"user {before.tun.owner}"
        raise HostError(
            f"{wanted.kind} device {wanted.ifname} exists and belongs to {whose}; leave owner= out, "
            f"or remove it first with `ip link del {wanted.ifname}`"
        )


def _note_header(wanted: Wanted, link: LinkInfo, found: TunFacts, note: Callable[[AnyChange], None]) -> None:
    """Note how an existing device is set: it takes over the flags of whoever attaches."""
    flags = header_flags(wanted.kind, vnet_hdr=found.vnet_header, packet_info=found.packet_info)
    flags |= DeviceFlags.MULTI_QUEUE if found.multi_queue else DeviceFlags(0)
    ours = header_flags(wanted.kind, vnet_hdr=wanted.offloads, packet_info=wanted.packet_info)
    if flags & ~DeviceFlags.MULTI_QUEUE == ours and not wanted.offloads:
        return
    try:
        with attach(link.name, flags) as fd:
            length = header_length(fd)
    except OSError:
        return  # the attachment that comes now fails too, and says why
    note(TunAttached(**_of(wanted, link), flags=int(flags), header=length))


class _Setup:
    """Gives one device what is wanted of it."""

    def __init__(
        self,
        links: Links,
        link: LinkInfo,
        wanted: Wanted,
        note: Callable[[AnyChange], None],
        before: LinkInfo | None,
    ) -> None:
        self._links = links
        self._link = link
        self._wanted = wanted
        self._note = note
        self._before = before

    def run(self, fd: OwnedFd) -> Offloads:
        link, wanted, links = self._link, self._wanted, self._links
        offloads = self._header(fd)
        # The MTU before addresses (IPv6 wants 1280), the MAC before the link is up.
        if wanted.mtu is not None and wanted.mtu != link.mtu:
            self._noted_set("mtu", str(link.mtu), str(wanted.mtu))
            links.set_link(link, mtu=wanted.mtu)
        mac = wanted.mac or (wanted.made_mac if self._before is None else None)
        if mac is not None and mac != link.mac:
            self._noted_set("mac", link.mac, mac)
            links.set_link(link, mac=mac)
        addressed, is_ours = link, self._before is None
        if wanted.bridge is not None:
            addressed, is_ours = self._join(wanted.bridge)
        if not link.up:
            self._noted_set("up", "down", "up")
            links.set_link(link, up=True)
        for address, peer in wanted.addresses:  # when it is up: the kernel drops an IPv6 peer's route before
            if address.version == 6:
                self._enable_ipv6(addressed, is_ours)
            self._add_address(addressed, is_ours, address, peer)
        return offloads

    def _header(self, fd: OwnedFd) -> Offloads:
        if self._wanted.offloads:
            set_header(fd, VNET_HEADER_LEN)
        return set_offloads(fd, wanted=self._wanted.offloads)

    def _join(self, name: str) -> tuple[LinkInfo, bool]:
        """Put the device on the bridge; returns that and whether it is ours. Addresses belong to the bridge."""
        links, wanted, ours = self._links, self._wanted, False
        bridge = links.find(name)
        if bridge is None:
            mac = "02:" + secrets.token_bytes(5).hex(":")  # locally administered (IEEE 802)
            self._note(BridgeMade(netns=wanted.netns, inode=wanted.inode, bridge=name, mac=mac))
            bridge, ours = links.add_bridge(name, mac), True
        if bridge.kind != "bridge":
            raise HostError(f"bridge={name}: {name} is a device but no bridge; take another name")
        if self._link.master not in (None, bridge.index):
            raise HostError(
                f"{self._link.name} is on another bridge; take it off with `ip link set {self._link.name} nomaster`"
            )
        if self._link.master is None:
            if self._before is not None:
                self._note(JoinedBridge(**self._device(self._link), bridge=name))
            links.set_master(self._link, bridge.index)
        return bridge, ours

    def _enable_ipv6(self, link: LinkInfo, is_ours: bool) -> None:
        path = disable_ipv6_path(link.name)
        try:
            now = path.read_text().strip()
            if now == "0":
                return
            if not is_ours:
                self._note(LinkSet(**self._device(link), setting="disable_ipv6", was=now, now="0"))
            path.write_text("0")
        except OSError as error:
            raise HostError(
                f"cannot turn IPv6 on for {link.name}: {error.strerror}; leave its IPv6 addresses out, or have root "
                f"do `sysctl net.ipv6.conf.{link.name}.disable_ipv6=0`"
            ) from error

    def _add_address(self, link: LinkInfo, is_ours: bool, address: Address, peer: Address | None) -> None:
        if self._links.has_address(link.index, address):
            return
        if not is_ours:
            text = None if peer is None else str(peer)
            self._note(AddressAdded(**self._device(link), address=str(address), peer=text))
        self._links.add_address(link, address, peer)

    def _noted_set(self, setting: Literal["up", "mtu", "mac"], was: str, now: str) -> None:
        if self._before is not None:
            self._note(LinkSet(**self._device(self._link), setting=setting, was=was, now=now))

    def _device(self, link: LinkInfo) -> "_Device":
        return _of(self._wanted, link)


def _of(wanted: Wanted, link: LinkInfo) -> "_Device":
    return {"netns": wanted.netns, "inode": wanted.inode, "ifname": link.name, "ifindex": link.index}


class _Device(TypedDict):
    netns: str | None
    inode: int
    ifname: str
    ifindex: int
