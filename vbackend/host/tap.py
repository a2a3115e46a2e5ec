"""Taps and tuns with all that belongs to them: addresses, bridge, MTU, owner, namespace.

`HostDevices` owns what one backend made, and what it changed for a NAT. A device of ours goes when it is closed; one
that was there before is attached and, at the end, left as it was found. Not here: how a device gets what is wanted of
it (setup.py).
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeVar

from vbackend.errors import HostError, VbackendError
from vbackend.fds import OwnedFd
from vbackend.host.changes import AnyChange, undo
from vbackend.host.device import Offloads, check_ifname
from vbackend.host.journal import Journal, sweep, undo_all
from vbackend.host.link import Address, Links
from vbackend.host.netns import namespace_inode, namespace_path, run_in_namespace
from vbackend.host.setup import Made, Wanted, check_addresses, set_up
from vbackend.host.users import user_id
from vbackend.ports.spec import TapSpec, TunSpec

__all__ = ["HostDevices", "Note", "OpenDevice"]

log = logging.getLogger(__name__)

T = TypeVar("T")
Note = Callable[[AnyChange], None]


@dataclass(eq=False, slots=True)
class OpenDevice:
    """An attached device. `fd` is handed to the engine; closing it removes a device that we made."""

    fd: OwnedFd
    ifname: str
    ifindex: int
    mac: str  # "" of a tun
    mtu: int
    vnet_hdr: bool  # with a header of 12 bytes
    offloads: Offloads  # what the host hands over, and takes
    netns: str | None
    created: bool
    changes: list[AnyChange] = field(default_factory=list)


class HostDevices:
    """Owner of everything one backend made on the host."""

    def __init__(self, journal: Journal | None = None) -> None:
        self._journal = Journal() if journal is None else journal
        self._devices: list[OpenDevice] = []
        self._postponed: list[AnyChange] = []  # to undo when others do not use the thing any more
        self._swept = False
        self._lock = asyncio.Lock()

    async def open_tap(self, spec: TapSpec) -> OpenDevice:
        """Make or attach a tap; its addresses are the bridge's when it is on one.

        ConfigError: the spec makes no sense; HostError, OSError: the host refused, with the remedy.
        """
        check_addresses(f"port {spec.text!r}", spec.addresses, (), spec.mtu)
        return await self._open(
            spec,
            "tap",
            mac=None if spec.options.mac is None else spec.options.mac.hex(":"),
            made_mac=None if spec.made_mac is None else spec.made_mac.hex(":"),
            bridge=None if spec.bridge is None else check_ifname(spec.bridge),
            offloads=spec.offloads,
            addresses=[(address, None) for address in spec.addresses],
        )

    async def open_tun(self, spec: TunSpec) -> OpenDevice:
        """Make or attach a tun; its addresses are point-to-point where `peers` has one of the same version.

        Errors as `open_tap`.
        """
        check_addresses(f"port {spec.text!r}", spec.addresses, spec.peers, spec.mtu)
        peers = {peer.version: peer for peer in spec.peers}
        return await self._open(
            spec,
            "tun",
            packet_info=spec.packet_info,
            addresses=[(address, peers.get(address.version)) for address in spec.addresses],
        )

    async def close(self, device: OpenDevice) -> None:
        """Let go of a device and undo what was changed for it; a second call does nothing."""
        async with self._lock:
            if device in self._devices:
                self._devices.remove(device)
                await _to_the_end(partial(self._close, device))

    async def close_all(self) -> None:
        """Close every device, and take away what others that are gone by now could not."""
        for device in list(self._devices):
            await self.close(device)
        async with self._lock:
            self._journal.close()
            if self._swept:
                await _to_the_end(partial(sweep, _undo_one, self._journal.directory))

    async def change(self, netns: str | None, work: Callable[[Note], None]) -> list[AnyChange]:
        """Carry out `work` in a namespace, with the changes it notes before it makes them; returns those.

        When it raises, or this is cancelled, they are undone. Errors as `work` raises them.
        """
        async with self._lock:
            await self._sweep()
            made: list[AnyChange] = []
            try:
                await _to_the_end(partial(self._noted, netns, work, made))
            except asyncio.CancelledError:
                await _to_the_end(partial(self._undo, made))
                raise
            return made

    async def take_back(self, changes: Sequence[AnyChange]) -> None:
        """Undo what `change` did: now, or if others use it still, when they have gone."""
        async with self._lock:
            await _to_the_end(partial(self._undo, changes))

    async def sweep(self) -> None:
        """Undo what killed processes left; the first device that is opened does it too."""
        async with self._lock:
            await self._sweep()

    async def _sweep(self) -> None:
        if not self._swept:
            self._swept = True
            await _to_the_end(partial(sweep, _undo_one, self._journal.directory))

    async def _open(
        self,
        spec: TapSpec | TunSpec,
        kind: Literal["tap", "tun"],
        *,
        addresses: Sequence[tuple[Address, Address | None]],
        mac: str | None = None,
        made_mac: str | None = None,
        bridge: str | None = None,
        offloads: bool = False,
        packet_info: bool = False,
    ) -> OpenDevice:
        if spec.netns is not None:
            namespace_path(spec.netns)
        inode = namespace_inode(spec.netns)
        if inode is None:
            raise HostError("cannot look at /proc/self/ns/net; mount /proc")
        wanted = Wanted(
            kind=kind,
            ifname=check_ifname(spec.ifname),
            netns=spec.netns,
            inode=inode,
            owner=None if spec.owner is None else user_id(spec.owner),
            mtu=spec.mtu,
            mac=mac,
            made_mac=made_mac,
            bridge=bridge,
            offloads=offloads,
            packet_info=packet_info,
            addresses=addresses,
        )
        async with self._lock:
            await self._sweep()
            made: list[OpenDevice] = []
            try:
                await _to_the_end(lambda: made.append(self._make(wanted)))
            except asyncio.CancelledError:
                for device in made:  # nobody will hear of it
                    await _to_the_end(partial(self._close, device))
                raise
            self._devices += made
            return made[0]

    def _make(self, wanted: Wanted) -> OpenDevice:
        changes: list[AnyChange] = []
        devices: list[Made] = []
        self._noted(wanted.netns, lambda note: devices.append(set_up(wanted, note)), changes)
        (made,) = devices
        return OpenDevice(
            fd=made.fd,
            ifname=made.link.name,
            ifindex=made.link.index,
            mac=made.link.mac,
            mtu=made.link.mtu,
            vnet_hdr=wanted.offloads,
            offloads=made.offloads,
            netns=wanted.netns,
            created=made.created,
            changes=changes,
        )

    def _noted(self, netns: str | None, work: Callable[[Note], None], changes: list[AnyChange]) -> None:
        """Do it, with `changes` filled as they are made; when it raises, they are undone."""

        def note(change: AnyChange) -> None:
            self._journal.record(change)
            changes.append(change)

        try:
            run_in_namespace(netns, lambda: work(note))
        except BaseException:
            self._undo(changes)
            raise

    def _close(self, device: OpenDevice) -> None:
        device.fd.close()
        if device.created and namespace_inode(device.netns) is not None:  # else it went with its namespace
            try:
                run_in_namespace(device.netns, partial(_remove, device))
            except (VbackendError, OSError) as error:
                log.warning("cleaning up %s: %s", device.ifname, error)
        self._undo(device.changes)

    def _undo(self, changes: Sequence[AnyChange]) -> None:
        """Undo, newest first; what others use still is left for a later call."""
        self._postponed = undo_all(self._undo_and_forget, [*reversed(changes), *self._postponed])

    def _undo_and_forget(self, change: AnyChange) -> bool:
        try:
            done = _undo_one(change)
        except (VbackendError, OSError) as error:
            log.warning("cleaning up: %s", error)
            done = True
        if done:
            self._journal.forget(change)
        return done


def _remove(device: OpenDevice) -> None:
    """Delete a device of ours that is there still: the engine closes its descriptor in its own time."""
    with Links() as links:
        link = links.at(device.ifindex)
        if link is not None and link.kind == "tun":
            try:
                links.remove(link)
            except HostError:
                if links.at(device.ifindex) is not None:  # else the engine was faster
                    raise


def _undo_one(change: AnyChange) -> bool:
    """Undo wherever the change was made; True: nothing is left to do."""
    if namespace_inode(change.netns) != change.inode:
        # A named namespace is gone, with all in it. One without a name is that of another container.
        return change.netns is not None
    return run_in_namespace(change.netns, partial(_undo_here, change))


def _undo_here(change: AnyChange) -> bool:
    with Links() as links:
        return undo(change, links)


async def _to_the_end(work: Callable[[], T]) -> T:
    """Run in a thread; a cancellation takes effect only when the work is done, for it cannot be stopped midway."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait((running,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        running.exception()  # seen, and less than the cancellation
        raise cancelled
    return running.result()
