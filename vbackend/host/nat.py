"""A way from a switch to the outside: forwarding and masquerading behind the gateway tap, by the kernel and nftables.

    port = parse_port(gateway_port(lab, "lan", config))   # a port of the switch "lan", opened with `devices`
    async with Nat(devices, lab, "lan", config, look_up=guests.addresses_of):
        ...

In whichever network namespace the tap is. Not here: the tap (tap.py), what the rules say (ruleset.py), which switches
the kernel needs (forwarding.py), and how a namespace of our own gets an outside (uplink.py).
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Final, Self

from vbackend.errors import ConfigError, HostError
from vbackend.host import nft
from vbackend.host.changes import AnyChange, SwitchSet, TableMade
from vbackend.host.forwarding import outward_devices, plan, read_setting, setting_path
from vbackend.host.link import Links
from vbackend.host.netns import namespace_inode, namespace_path
from vbackend.host.ruleset import (
    Forward,
    IPAddress,
    LookUp,
    NatConfig,
    gateway_ifname,
    resolve,
    ruleset,
    table_name,
)
from vbackend.host.tap import HostDevices, Note

__all__ = ["Nat"]


def _unknown(_name: str) -> Iterable[IPAddress]:
    return ()


class Nat:
    """One NAT. `start` and `stop` in this order, or `async with`."""

    def __init__(
        self,
        devices: HostDevices,
        lab: str,
        segment: str,
        config: NatConfig,
        *,
        private: bool = False,
        netns: str | None = None,
        ifname: str | None = None,
        look_up: LookUp = _unknown,
    ) -> None:
        """`private`: the namespace is our own, with the uplink as its outside; there the uplink listens for forwarded
        ports. `netns`, `ifname`: where the gateway tap is, unless it is that of `gateway_port`. `look_up`: the
        addresses of a guest, for forwarded ports.

        ConfigError: a name that cannot be one, or a guest without address.
        """
        self.table: Final = table_name(lab, segment)
        self.ifname: Final = ifname or gateway_ifname(lab, segment)
        self._devices = devices
        self._netns = netns
        self._private = private
        self._versions = config.versions
        self._forwards: list[tuple[Forward, IPAddress]] = []
        for forward in config.forwards:
            known = resolve(forward, look_up)
            targets = [target for target in known if target.version in config.versions]
            if not targets:
                raise ConfigError(
                    f"forward to {forward.host}: {segment} has no IPv{known[0].version} address for its NAT; add one"
                )
            here = replace(forward, listen=None) if private else forward
            self._forwards += [(here, target) for target in targets]
        self._changes: list[AnyChange] | None = None

    async def start(self) -> None:
        """Let guests out. HostError, OSError: the host refused; nothing is left changed then."""
        if self._netns is not None:
            namespace_path(self._netns)
        inode = namespace_inode(self._netns)
        if inode is None:
            raise HostError("cannot look at /proc/self/ns/net; mount /proc")
        self._changes = await self._devices.change(self._netns, partial(self._set_up, inode))

    async def stop(self) -> None:
        """Take everything back; a second call does nothing. Switches stay while another NAT needs them."""
        changes, self._changes = self._changes, None
        if changes is not None:
            await self._devices.take_back(changes)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _set_up(self, inode: int, note: Note) -> None:
        """The table first, so that a NAT that stops meanwhile sees it and leaves the switches as they are."""
        with Links() as links:
            links.get(self.ifname)
            routed = {version: links.routed(version) for version in self._versions}
            devices = links.names()
        note(TableMade(netns=self._netns, inode=inode, table=self.table))
        rules = ruleset(self.table, self.ifname, self._versions, self._forwards)
        nft.apply(f"let {self.ifname} out with table {self.table}", rules)
        for setting in plan(
            self._versions,
            self.ifname,
            private=self._private,
            outward={version: outward_devices(*found, self.ifname) for version, found in routed.items()},
            devices=devices,
            loopback=any(target.version == 4 for _, target in self._forwards),
            read=read_setting,
        ):
            note(
                SwitchSet(netns=self._netns, inode=inode, path=setting.path, was=setting.was, now=setting.now)
            )
            try:
                setting_path(setting.path).write_text(setting.now)
            except OSError as error:
                name = setting.path.replace("/", ".")
                raise HostError(
                    f"cannot set {name}={setting.now} for the NAT of {self.ifname}: {error.strerror}; run as root, or "
                    "in a container make /proc/sys writable"
                ) from error
