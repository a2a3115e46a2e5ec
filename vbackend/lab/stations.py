"""The services of a lab's switches while it runs: one station each. Leases outlive the daemon.

Not here: what a service does (services/), which switch has which (picture.py), what a station is made of (served.py).
"""

import asyncio
import logging
from pathlib import Path
from typing import Final

from vbackend.backend import Backend
from vbackend.errors import HostError
from vbackend.lab.names import gateway_mac, mac_octets, station_mac
from vbackend.lab.served import services_of
from vbackend.lab.state import LabFolder, replace_file
from vbackend.lab.steps import Service
from vbackend.services.config import Server
from vbackend.services.snapshot import StationSnapshot
from vbackend.services.station import Station

__all__ = ["Stations", "station_name"]

log = logging.getLogger(__name__)


def station_name(switch: str) -> str:
    """What its port is called."""
    return f"{switch}:services"


class Stations:
    """Those that run, by switch."""

    def __init__(
        self, folder: LabFolder, backend: Backend, servers: tuple[Server, ...] | None = None
    ) -> None:
        """`servers`: as of `services_of`."""
        self._folder: Final = folder
        self._backend: Final = backend
        self._servers: Final = servers
        self._running: Final[dict[str, Station]] = {}

    async def start(self, switch: str, service: Service) -> None:
        """ConfigError: the services make no sense."""
        leases = self._leases(switch)
        station = Station(
            self._backend,
            station_name(switch),
            mac_octets(station_mac(self._folder.name, switch)),
            service.switch.addresses,
            services_of(service, mac_octets(gateway_mac(self._folder.name, switch)), self._servers),
            segment=switch,
            leases=await asyncio.to_thread(leases.read_text, "utf-8") if leases.exists() else None,
        )
        station.subscribe(lambda _: _keep(leases, station))
        await station.start()
        self._running[switch] = station

    async def stop(self, switch: str) -> None:
        """Nothing when it has none."""
        if switch in self._running:
            await self._running.pop(switch).stop()

    async def close(self) -> None:
        """Stop them all."""
        for switch in list(self._running):
            await self.stop(switch)

    def snapshots(self) -> dict[str, StationSnapshot]:
        return {switch: station.snapshot() for switch, station in self._running.items()}

    def _leases(self, switch: str) -> Path:
        return self._folder.root / f"leases-{switch}.json"


def _keep(leases: Path, station: Station) -> None:
    """What cannot be kept costs nobody the services: who has such an address keeps it (services/dhcp4.py)."""
    try:
        replace_file(leases, station.leases_json())
    except HostError as error:
        log.warning("%s: a successor will not know its leases: %s", station.name, error)
