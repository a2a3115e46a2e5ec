"""The NATs of a lab's switches: a gateway tap each, and one uplink for all of them where the lab has a namespace of
its own.
"""

import logging
from dataclasses import replace
from typing import Final

from vbackend.backend import Backend
from vbackend.errors import ConfigError, VbackendError
from vbackend.host.nat import Nat
from vbackend.host.outside import Outside
from vbackend.host.ruleset import LookUp, NatConfig, gateway_port
from vbackend.host.tap import HostDevices
from vbackend.host.uplink import Uplink
from vbackend.lab.names import gateway_mac, mac_octets
from vbackend.lab.state import LabFolder
from vbackend.ports.parse import parse_port
from vbackend.ports.spec import TapSpec

__all__ = ["Gateways", "gateway_name"]

log = logging.getLogger(__name__)


def gateway_name(switch: str) -> str:
    """What the tap's port is called."""
    return f"{switch}:nat"


class Gateways:
    """Those that run, by switch. `outside`: of a namespace of our own, None: the host's. `devices`: the backend's."""

    def __init__(
        self, folder: LabFolder, backend: Backend, devices: HostDevices, outside: Outside | None
    ) -> None:
        self._folder: Final = folder
        self._backend: Final = backend
        self._devices: Final = devices
        self._outside: Final = outside
        self._running: Final[dict[str, tuple[NatConfig, Nat]]] = {}
        self._uplink: Uplink | None = None

    async def start(self, switch: str, config: NatConfig, look_up: LookUp) -> None:
        """ConfigError: a forward leads nowhere. HostError, OSError: the host refuses. Nothing is left then."""
        lab = self._folder.name
        spec = parse_port(gateway_port(lab, switch, config))
        if not isinstance(spec, TapSpec):
            raise ConfigError(f"switch {switch!r}: its gateway is no tap")
        mac = mac_octets(gateway_mac(lab, switch))
        options = replace(spec.options, name=gateway_name(switch))
        private = self._outside is not None
        nat = Nat(self._devices, lab, switch, config, private=private, look_up=look_up)
        await self._backend.add_port(replace(spec, options=options, made_mac=mac), segment=switch)
        try:
            await nat.start()
            self._running[switch] = (config, nat)
            await self._lead_out()
        except BaseException:
            self._running.pop(switch, None)
            await nat.stop()
            await self._backend.remove_port(gateway_name(switch))
            if self._uplink is None and self._running:
                await self._lead_others_out()
            raise

    async def stop(self, switch: str) -> None:
        """Nothing when it has none."""
        if switch in self._running:
            _, nat = self._running.pop(switch)
            await nat.stop()
            await self._backend.remove_port(gateway_name(switch))
            await self._lead_out()

    async def close(self) -> None:
        """Stop them all."""
        for switch in list(self._running):
            await self.stop(switch)

    async def _lead_others_out(self) -> None:
        """Give those that ran before their uplink again."""
        try:
            await self._lead_out()
        except (VbackendError, OSError) as error:
            log.error("the NATs of %s have no uplink any more: %s", ", ".join(self._running), error)

    async def _lead_out(self) -> None:
        """One uplink with the forwards of all, as long as there is one."""
        if self._outside is None:
            return
        if self._uplink is not None:
            await self._uplink.stop()
            self._uplink = None
        if self._running:
            forwards = [forward for config, _ in self._running.values() for forward in config.forwards]
            uplink = Uplink(self._outside, self._folder.root, forwards=forwards)
            await uplink.start()
            self._uplink = uplink
