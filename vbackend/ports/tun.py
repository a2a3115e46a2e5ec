"""Tun ports: an IP device of this host, as the reader and writer of a tun unit.

Guests speak Ethernet, a tun device bare IP: the engine's adapter answers ARP and neighbour solicitations for the
host's addresses with a MAC of its own and finds the guests'. The MAC is what `mac=` gives, else made from the
interface's name, so that guests keep their neighbour entries when vbackend restarts.
"""

from typing import ClassVar

from vbackend.host.tap import OpenDevice
from vbackend.ports.base import PortKind
from vbackend.ports.spec import TunSpec
from vbackend.ports.tap import DevicePort
from vbackend.ports.unitport import PortWithUnit

__all__ = ["TunPort"]


class TunPort(PortWithUnit, DevicePort):
    kind: ClassVar[PortKind] = "tun"
    spec: TunSpec

    @property
    def adapter_name(self) -> str:
        return self.spec.ifname

    async def _make(self) -> OpenDevice:
        return await self._devices.open_tun(self.spec)

    def _attach(self, port: int, device: OpenDevice) -> int:
        session = self.context.dataplane.attach_reader(port, device.fd, device=True)
        self.open_file()
        self.interface.set_mtu(max(device.mtu, 576))
        return session
