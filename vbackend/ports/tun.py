"""Tun ports: an IP device of this host, behind an Ethernet adapter.

Guests speak Ethernet, a tun device bare IP: the engine's adapter answers ARP and neighbour solicitations for
the host's addresses with a MAC of its own and finds the guests'. The MAC is what `mac=` gives, else made from
the interface's name, so that guests keep their neighbour entries when vbackend restarts.
"""

from hashlib import sha256
from typing import ClassVar

from vbackend.host.tap import OpenDevice
from vbackend.ports.base import PortKind
from vbackend.ports.spec import TunSpec
from vbackend.ports.tap import DevicePort

__all__ = ["TunPort", "stable_mac"]


def stable_mac(ifname: str) -> bytes:
    """A locally administered station address (IEEE 802: bit 1 set, bit 0 clear), one for each name."""
    digest = sha256(f"vbackend tun {ifname}".encode()).digest()
    return bytes([digest[0] & 0xFC | 0x02]) + digest[1:6]


class TunPort(DevicePort):
    kind: ClassVar[PortKind] = "tun"
    spec: TunSpec

    @property
    def source_mac(self) -> bytes | None:
        """None: `mac=` is the adapter's own address, and all frames have it."""
        return None

    async def _make(self) -> OpenDevice:
        return await self._devices.open_tun(self.spec)

    def _attach(self, port: int, device: OpenDevice) -> int:
        return self.context.dataplane.attach_tun(
            port,
            device.fd,
            packet_info=False,
            mac=self.spec.options.mac or stable_mac(self.spec.ifname),
            local=[str(address.ip) for address in self.spec.addresses],
            peers=[str(peer.ip) for peer in self.spec.peers],
        )
