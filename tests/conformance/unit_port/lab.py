"""A backend with one unit port and one guest, as most tests of this folder want it.

guest, 10.7.0.2 ── channel ── switch ── unit:PATH, 10.7.0.1 ── program
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tests.support.accounting import assert_accounts
from tests.support.frames import mac
from tests.support.qemu_peers import eventually
from tests.support.unit_peers import GuestStation, UnitPeer, packet
from vbackend.backend import Backend, BackendEvent
from vbackend.ports.parse import parse_port
from vbackend.ports.unit import UnitPort
from vbackend.ports.unitport import stable_mac
from vbackend.snapshot import PortSnapshot, UnitSnapshot
from vbackend.tun.driver import Interface

__all__ = ["HERE", "HERE6", "THERE", "THERE6", "Lab", "unit_lab"]

HERE, THERE = "10.7.0.1", "10.7.0.2"  # the unit's address and the guest's
HERE6, THERE6 = "fd07::1", "fd07::2"


class Lab:
    def __init__(self, backend: Backend, path: str) -> None:
        self.backend: Final = backend
        self.path: Final = path
        self.mac: Final = stable_mac(f"unit {path}")
        self.events: Final[list[BackendEvent]] = []
        self._stations: list[GuestStation] = []
        self._peers: list[UnitPeer] = []
        backend.subscribe(self.events.append)

    async def station(self, number: int = 2, address: str = "") -> GuestStation:
        """Guest `number` with 10.7.0.NUMBER, which everybody knows."""
        channel = await self.backend.open_channel(f"guest{number}")
        found = GuestStation(channel, mac(number), address or f"10.7.0.{number}", self.mac)
        self._stations.append(found)
        await found.announce()
        return found

    async def program(self) -> UnitPeer:
        """A program that has the unit open."""
        sessions = self.port.sessions
        peer = await self.client()
        await eventually(lambda: self.port.sessions > sessions, "the unit is open")
        return peer

    async def client(self, suffix: str = "") -> UnitPeer:
        """Connected to the unit, or with a suffix beside it, whatever comes of that."""
        peer = await UnitPeer.connect(self.path + suffix)
        self._peers.append(peer)
        return peer

    async def errors(self) -> UnitPeer:
        """A listener to refused writes."""
        peer = await self.client(".errors")
        await eventually(lambda: self._unit_port._errors is not None, "somebody listens to errors")
        return peer

    def close(self) -> None:
        for peer in self._peers:
            peer.close()
        for station in self._stations:
            station.channel.close()

    @property
    def port(self) -> PortSnapshot:
        return next(port for port in self.backend.snapshot().ports if port.name == "unit")

    @property
    def unit(self) -> UnitSnapshot:
        assert self.port.unit is not None
        return self.port.unit

    @property
    def interface(self) -> Interface:
        return self._unit_port.interface

    def happened(self, name: str) -> list[BackendEvent]:
        return [event for event in self.events if event.name == name and event.data["port"] == "unit"]

    async def hears(self, guest: GuestStation, program: UnitPeer) -> None:
        """Both directions work."""
        await program.send(packet(HERE, guest.address, b"down"))
        assert (await guest.recv())[-4:] == b"down"
        await guest.send(packet(guest.address, HERE, b"up"))
        assert (await program.recv())[-2:] == b"up"

    @property
    def _unit_port(self) -> UnitPort:
        port = self.backend._ports["unit"]
        assert isinstance(port, UnitPort)
        return port


@asynccontextmanager
async def unit_lab(folder: Path, options: str = "", *, workers: int = 1) -> AsyncIterator[Lab]:
    """A started backend; at the end the accounts are checked and nothing is left in the folder."""
    path = f"{folder}/u.sock"
    text = f"unit:{path},name=unit,addr={HERE},addr={HERE6}"
    text += "" if "mode=broadcast" in options else f",peer={THERE},peer={THERE6}"
    async with Backend(name="test", workers=workers) as backend:
        await backend.start([parse_port(f"{text}{options and ','}{options}")])
        lab = Lab(backend, path)
        try:
            yield lab
            assert_accounts(backend.snapshot())
        finally:
            lab.close()
    assert not list(folder.glob("u.sock*"))
