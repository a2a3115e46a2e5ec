"""Tap ports: an Ethernet device of this host.

`host/` makes the device and sets its addresses; here it becomes a session. Taken away by somebody else, the
device is not made again: the port is `failed` until it is removed.
"""

from abc import abstractmethod
from typing import ClassVar

from vbackend.host.device import Offloads
from vbackend.host.tap import HostDevices, OpenDevice
from vbackend.ports.base import Port, PortContext, PortKind
from vbackend.ports.spec import TapSpec, TunSpec

__all__ = ["DevicePort", "TapPort"]


class DevicePort(Port):
    """What tap and tun ports share: one device from `open` to `cleanup`."""

    def __init__(
        self, context: PortContext, name: str, spec: TapSpec | TunSpec, devices: HostDevices
    ) -> None:
        super().__init__(context, name, spec)
        self._devices = devices
        self._device: OpenDevice | None = None

    async def open(self) -> None:
        assert self.engine_port is not None, "open comes after create"
        self._device = await self._make()
        place = self._device.ifname
        if self._device.netns is not None:
            place += f" (namespace {self._device.netns})"
        self.started(self._attach(self.engine_port, self._device), place)

    async def cleanup(self) -> None:
        if self._device is not None:
            device, self._device = self._device, None
            await self._devices.close(device)

    def on_end(self) -> None:
        self.state, self.detail = "failed", f"{self.last_end}; remove the port and add it again"

    @abstractmethod
    async def _make(self) -> OpenDevice:
        """Make or attach the device."""

    @abstractmethod
    def _attach(self, port: int, device: OpenDevice) -> int:
        """Start the engine's session on it; returns its number."""


class TapPort(DevicePort):
    kind: ClassVar[PortKind] = "tap"
    spec: TapSpec

    @property
    def source_mac(self) -> bytes | None:
        """`mac=` is the device's address; behind a bridge there are other stations too."""
        return None if self.spec.bridge is not None else self.spec.options.mac

    async def _make(self) -> OpenDevice:
        return await self._devices.open_tap(self.spec)

    def _attach(self, port: int, device: OpenDevice) -> int:
        return self.context.dataplane.attach_tap(
            port, device.fd, vnet_hdr=device.vnet_hdr, uso=Offloads.USO4 in device.offloads
        )
