"""Taps and tuns with all that belongs to them: address, bridge, MTU, owner, namespace.

`HostDevices` owns what it made. A device that was there before is attached and, at the end, left as it was found.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from vbackend.errors import HostError, VbackendError
from vbackend.fds import OwnedFd
from vbackend.host.changes import AddressAdded, BridgeMade, JoinedBridge, LinkSet, undo
from vbackend.host.device import check_ifname, open_device, user_id
from vbackend.host.journal import AnyChange, Journal, sweep
from vbackend.host.link import Address, LinkInfo, Links
from vbackend.host.netns import in_namespace, run_in_namespace
from vbackend.ports.spec import TapSpec, TunSpec

__all__ = ["HostDevices", "OpenDevice"]

log = logging.getLogger(__name__)

_TUN_MTU: Final = 1500


@dataclass(eq=False, slots=True)
class OpenDevice:
    """An attached device. `fd` is handed to the engine; closing it removes a device that we made."""

    fd: OwnedFd
    ifname: str
    ifindex: int
    mac: str
    mtu: int
    vnet_hdr: bool
    netns: str | None
    created: bool
    changes: list[AnyChange] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a tap and a tun have in common."""

    kind: Literal["tap", "tun"]
    ifname: str
    netns: str | None
    owner: int | None
    mtu: int | None
    mac: str | None
    bridge: str | None
    addresses: Sequence[tuple[Address, Address | None]]


class HostDevices:
    """Owner of everything one backend made on the host."""

    def __init__(self, journal: Journal | None = None) -> None:
        self._journal = Journal() if journal is None else journal
        self._devices: list[OpenDevice] = []
        self._swept = False
        self._lock = asyncio.Lock()

    async def open_tap(self, spec: TapSpec) -> OpenDevice:
        """Make or attach a tap. ConfigError: the spec; HostError: the host, with the remedy."""
        mac = None if spec.options.mac is None else spec.options.mac.hex(":")
        wanted = _Wanted(
            kind="tap",
            ifname=check_ifname(spec.ifname),
            netns=spec.netns,
            owner=None if spec.owner is None else user_id(spec.owner),
            mtu=spec.mtu,
            mac=mac,
            bridge=None if spec.bridge is None else check_ifname(spec.bridge),
            addresses=[(address, None) for address in spec.addresses],
        )
        return await self._open(wanted)

    async def open_tun(self, spec: TunSpec) -> OpenDevice:
        """Make or attach a tun; its addresses are point-to-point where `peers` has one of the same family."""
        peers = {peer.version: peer for peer in spec.peers}
        wanted = _Wanted(
            kind="tun",
            ifname=check_ifname(spec.ifname),
            netns=spec.netns,
            owner=None if spec.owner is None else user_id(spec.owner),
            mtu=spec.mtu or _TUN_MTU,
            mac=None,
            bridge=None,
            addresses=[(address, peers.get(address.version)) for address in spec.addresses],
        )
        return await self._open(wanted)

    async def close(self, device: OpenDevice) -> None:
        """Let go of a device and undo what was changed for it; a second call does nothing."""
        async with self._lock:
            if device in self._devices:
                self._devices.remove(device)
                device.fd.close()
                await asyncio.to_thread(self._undo, device.changes)

    async def close_all(self) -> None:
        """Close every device."""
        for device in list(self._devices):
            await self.close(device)

    async def _open(self, wanted: _Wanted) -> OpenDevice:
        async with self._lock:
            if not self._swept:
                self._swept = True
                await asyncio.to_thread(sweep, _undo_one)
            changes: list[AnyChange] = []
            try:
                device = await in_namespace(wanted.netns, lambda: self._make(wanted, changes))
            except BaseException:
                await asyncio.to_thread(self._undo, changes)
                raise
            self._devices.append(device)
            return device

    def _make(self, wanted: _Wanted, changes: list[AnyChange]) -> OpenDevice:
        """Runs in the device's namespace. What must be undone is in `changes`, also when it raises."""
        with Links() as links:
            before = links.find(wanted.ifname)
            fd = open_device(wanted.kind, wanted.ifname, owner=wanted.owner)
            try:
                link = links.get(wanted.ifname)
                _Setup(links, link, wanted, self._journal, changes, made=before is None).run()
                link = links.get(wanted.ifname)
            except BaseException:
                fd.close()
                raise
        return OpenDevice(
            fd=fd,
            ifname=link.name,
            ifindex=link.index,
            mac=link.mac,
            mtu=link.mtu,
            vnet_hdr=wanted.kind == "tap",
            netns=wanted.netns,
            created=before is None,
            changes=changes,
        )

    def _undo(self, changes: Sequence[AnyChange]) -> None:
        for change in reversed(changes):
            try:
                _undo_one(change)
            except (VbackendError, OSError) as error:
                log.warning("cleaning up: %s", error)
            self._journal.forget(change)


class _Setup:
    """Gives one device what is wanted of it, noting what must be undone."""

    def __init__(
        self,
        links: Links,
        link: LinkInfo,
        wanted: _Wanted,
        journal: Journal,
        changes: list[AnyChange],
        *,
        made: bool,
    ) -> None:
        self._links = links
        self._link = link
        self._wanted = wanted
        self._journal = journal
        self._changes = changes
        self._made = made

    def run(self) -> None:
        link, wanted, links = self._link, self._wanted, self._links
        mtu = wanted.mtu if wanted.mtu not in (None, link.mtu) else None
        mac = wanted.mac if wanted.mac not in (None, link.mac) else None
        up = None if link.up else True
        if mtu is not None or mac is not None or up is not None:
            self._note(
                LinkSet(
                    netns=wanted.netns,
                    ifname=link.name,
                    ifindex=link.index,
                    up=None if up is None else link.up,
                    mtu=None if mtu is None else link.mtu,
                    mac=None if mac is None else link.mac,
                )
            )
        if mtu is not None or mac is not None:
            links.set_link(link, mtu=mtu, mac=mac)  # the MAC while it is down
        if wanted.bridge is not None:
            self._join(wanted.bridge)
        for address, peer in wanted.addresses:
            self._add_address(address, peer)
        if up is not None:
            links.set_link(link, up=True)

    def _join(self, name: str) -> None:
        bridge = self._links.find(name)
        if bridge is None:
            self._note(BridgeMade(netns=self._wanted.netns, bridge=name), always=True)
            bridge = self._links.add_bridge(name)
        elif bridge.kind != "bridge":
            raise HostError(f"bridge={name}: {name} is a device but no bridge; take another name")
        if self._link.master != bridge.index:
            self._note(
                JoinedBridge(
                    netns=self._wanted.netns,
                    ifname=self._link.name,
                    ifindex=self._link.index,
                    bridge=name,
                    before=self._link.master,
                )
            )
            self._links.set_master(self._link, bridge.index)

    def _add_address(self, address: Address, peer: Address | None) -> None:
        if self._links.has_address(self._link.index, address):
            return
        self._note(
            AddressAdded(
                netns=self._wanted.netns,
                ifname=self._link.name,
                ifindex=self._link.index,
                address=str(address),
                peer=None if peer is None else str(peer),
            )
        )
        self._links.add_address(self._link, address, peer)

    def _note(self, change: AnyChange, *, always: bool = False) -> None:
        """Record a change that outlives the device's descriptor."""
        if always or not self._made:
            self._journal.record(change)
            self._changes.append(change)


def _undo_one(change: AnyChange) -> None:
    def act() -> None:
        with Links() as links:
            undo(change, links)

    run_in_namespace(change.netns, act)
