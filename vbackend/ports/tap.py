"""Tap ports: an Ethernet device of this host.

`host/` makes the device and sets its addresses; here it becomes a session. Taken away by somebody else, the
device is not made again: the port is `failed` until it is removed.
"""

import logging
from abc import abstractmethod
from typing import ClassVar

from vbackend.fds import OwnedFd
from vbackend.host.device import Offloads, set_carrier
from vbackend.host.tap import HostDevices, OpenDevice
from vbackend.ports.base import Port, PortContext, PortKind
from vbackend.ports.spec import TapSpec, TunSpec

__all__ = ["DevicePort", "TapPort"]

log = logging.getLogger(__name__)


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
    """Of a port that is down, or whose link is, the host sees a device without carrier."""

    kind: ClassVar[PortKind] = "tap"
    spec: TapSpec

    def __init__(self, context: PortContext, name: str, spec: TapSpec, devices: HostDevices) -> None:
        super().__init__(context, name, spec, devices)
        self._carrier = True
        self._handle: OwnedFd | None = (
            None  # the engine has the device's descriptor, and this is its duplicate
        )

    async def open(self) -> None:
        await super().open()
        if not (self.up and self._carrier):
            self._show_carrier()

    async def cleanup(self) -> None:
        if self._handle is not None:
            self._handle.close()
        await super().cleanup()

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
        if up is not None:
            self._show_carrier()

    def set_carrier(self, up: bool) -> None:
        self._carrier = up
        self._show_carrier()

    @property
    def source_mac(self) -> bytes | None:
        """`mac=` is the device's address; behind a bridge there are other stations too."""
        return None if self.spec.bridge is not None else self.spec.options.mac

    async def _make(self) -> OpenDevice:
        return await self._devices.open_tap(self.spec)

    def _attach(self, port: int, device: OpenDevice) -> int:
        self._handle = device.fd.duplicate()
        return self.context.dataplane.attach_tap(
            port, device.fd, vnet_hdr=device.vnet_hdr, uso=Offloads.USO4 in device.offloads
        )

    def _show_carrier(self) -> None:
        if self._handle is None or self.session is None:
            return
        try:
            set_carrier(self._handle, up=self.up and self._carrier)
        except OSError as error:  # before Linux 5.0; or the device is just being taken away
            log.warning("port %s: its device keeps its carrier as it is: %s", self.name, error.strerror)
