"""What ports with a tun unit share: the unit is there as long as the port, whoever reads it.

The guest side is the engine's Ethernet adapter, the far side the unit's device face: a host device (tun.py), a program
behind a socket (unit.py), a program in this process (tunfile.py).
"""

from abc import abstractmethod
from contextlib import suppress
from hashlib import sha256
from ipaddress import IPv4Address, IPv4Interface, IPv6Address
from typing import Final, Literal

from vbackend.dataplane import AdapterConfig
from vbackend.ports.base import CaptureLink, Port
from vbackend.ports.spec import Address, TunSpec, UnitSpec
from vbackend.snapshot import UnitSnapshot
from vbackend.tun.driver import Interface
from vbackend.tun.file import TunFile
from vbackend.tun.vocabulary import TUNMTU, Header, IfAddr, IfFlag, Ioctl, TunFlag

__all__ = ["PortWithUnit", "link_local", "stable_mac"]

_LINK_LOCAL: Final = int(IPv6Address("fe80::"))


def stable_mac(name: str) -> bytes:
    """A locally administered station address (IEEE 802: bit 1 set, bit 0 clear), one for each name."""
    digest = sha256(f"vbackend tun {name}".encode()).digest()
    return bytes([digest[0] & 0xFC | 0x02]) + digest[1:6]


def link_local(mac: bytes) -> IPv6Address:
    """The address that a station gives itself (RFC 4291 appendix A): in6_ifattach() does when an interface comes up."""
    modified = bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]
    return IPv6Address(_LINK_LOCAL | int.from_bytes(modified, "big"))


class PortWithUnit(Port):
    """`adapter_name` makes the adapter's address when `mac=` does not give it."""

    spec: TunSpec | UnitSpec
    interface: Interface
    file: TunFile | None = None  # while the device face is open

    @property
    @abstractmethod
    def adapter_name(self) -> str:
        """Always the same for the same port."""

    @property
    def source_mac(self) -> bytes | None:
        """None: `mac=` is the adapter's own address, and all frames have it."""
        return None

    @property
    def adapter_mac(self) -> bytes:
        return self.spec.options.mac or stable_mac(self.adapter_name)

    @property
    def capture_link(self) -> CaptureLink:
        """DLT_NULL, as the driver's; DLT_LOOP where that is what the reader gets."""
        return "loop" if self.interface.header == "loop" else "null"

    def create(self) -> None:
        """Make the unit, give it its addresses, and make the engine port its far side."""
        super().create()
        assert self.engine_port is not None, "it was just made"
        units, spec = self.context.units, self.spec
        broadcast = self.mode == "broadcast"
        self.interface = units.create(
            tunmtu=max(TUNMTU, spec.mtu or TUNMTU) if isinstance(spec, UnitSpec) else 65_535,
            system=spec.family if isinstance(spec, UnitSpec) else "linux",
            queue=self.queue_frames,
        )
        self.open_file()  # a reader's first packet may be taken before the unit is open: its header is known by then
        self.close_file()
        self.context.dataplane.attach_unit(self.engine_port, self.interface.native, self._adapter())
        if broadcast:
            number = self.interface.number
            units.ioctl(number, Ioctl.TUNSIFMODE, IfFlag.BROADCAST | IfFlag.MULTICAST)
        peers = {peer.version: peer.ip for peer in spec.peers}
        for address in spec.addresses:
            self.interface.add_address(
                IfAddr(address.ip, peers.get(address.version), _broadcast(address) if broadcast else None)
            )
        for version in peers.keys() - {address.version for address in spec.addresses}:
            self.interface.set_peer(peers[version])
        self.interface.add_address(IfAddr(link_local(self.adapter_mac)))
        if isinstance(spec, UnitSpec) and spec.mtu is not None:
            self.interface.set_mtu(spec.mtu)
        self.interface.on_change = self._reconfigure
        self.set(queue_frames=self.queue_frames, queue_bytes=self.queue_bytes, rate=self.rate)

    @property
    def header(self) -> Header:
        """What stands before a packet of the device face."""
        if isinstance(self.spec, UnitSpec):
            return self.spec.header
        return "pi" if self.spec.packet_info else "none"

    def open_file(self) -> TunFile:
        """Open the device face: with an address the unit is READY from now on."""
        self.file = self.context.units.open(self.interface.number, header=self.header)
        return self.file

    def close_file(self) -> None:
        """Close it; a second call does nothing."""
        if self.file is not None:
            file, self.file = self.file, None
            file.close()

    def forget(self) -> None:
        super().forget()
        self.close_file()
        if hasattr(self, "interface"):
            self.interface.on_change = None
            with suppress(OSError):  # ENXIO: somebody has destroyed it already
                self.context.units.destroy(self.interface.number)

    def finish(self, reason: str, *, expected: bool = True) -> None:
        self.close_file()
        super().finish(reason, expected=expected)

    def set(
        self,
        *,
        up: bool | None = None,
        queue_frames: int | None = None,
        queue_bytes: int | None = None,
        rate: int | None = None,
        burst: int | None = None,
    ) -> None:
        super().set(up=up, queue_frames=queue_frames, queue_bytes=queue_bytes, rate=rate, burst=burst)
        self.interface.queue_limit = self.queue_frames
        self.interface.rate, self.interface.burst = self.rate or 0, self.burst or 0

    @property
    def mode(self) -> Literal["pointopoint", "broadcast"]:
        """A unit is point to point unless told otherwise; a host device is when it has a peer."""
        if isinstance(self.spec, UnitSpec):
            return self.spec.mode or "pointopoint"
        return "pointopoint" if self.spec.peers else "broadcast"

    def unit_snapshot(self) -> UnitSnapshot | None:
        interface = self.interface
        return UnitSnapshot(
            name=interface.name,
            flags=_names(interface.flags),
            if_flags=_names(interface.if_flags),
            addresses=tuple(map(_address_text, interface.addresses)),
            mtu=interface.mtu,
            tunmtu=interface.tunmtu,
            mode="pointopoint" if interface.if_flags & IfFlag.POINTOPOINT else "broadcast",
            header=interface.header,
            family=interface.system,
            queue_len=interface.queue_len,
            queue_limit=interface.queue_limit,
            counters=interface.counters(),
        )

    def _adapter(self) -> AdapterConfig:
        addresses = self.interface.addresses
        peers = (address.peer for address in addresses if address.peer is not None)
        return AdapterConfig(
            mac=self.adapter_mac,
            pointopoint=bool(self.interface.if_flags & IfFlag.POINTOPOINT),
            local=tuple(address.local for address in addresses if not address.local.is_unspecified),
            peers=tuple(peer for peer in peers if not peer.is_unspecified),
            broadcasts=tuple(address.broadcast for address in addresses if address.broadcast is not None),
        )

    def _reconfigure(self) -> None:
        if self.engine_port is not None:
            self.context.dataplane.configure_unit(self.engine_port, self._adapter())


def _broadcast(address: Address) -> IPv4Address | None:
    """The address of all in a subnet; none where a subnet has no room for it (RFC 3021)."""
    if isinstance(address, IPv4Interface) and address.network.prefixlen < 31:
        return address.network.broadcast_address
    return None


def _names(flags: IfFlag | TunFlag) -> tuple[str, ...]:
    return tuple(flag.name for flag in flags if flag.name is not None)


def _address_text(address: IfAddr) -> str:
    if address.peer is not None:
        return f"{address.local} -> {address.peer}"
    return f"{address.local} broadcast {address.broadcast}" if address.broadcast else str(address.local)
