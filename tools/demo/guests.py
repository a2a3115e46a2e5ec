"""The demo's guests: booted side by side on stream ports, configured, and wrapped as places."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.support.guest import Guest, Guests, PingResult, nic
from tools.demo.measure import Place, Stream, stream_of
from vbackend.images import BuiltImage

__all__ = ["GuestPlace", "GuestPlan", "boot_all"]


@dataclass(frozen=True, slots=True)
class GuestPlan:
    name: str
    mac: str
    addresses: tuple[str, str]  # IPv4 and IPv6
    socket: Path  # where vbackend listens for it

    def network(self) -> list[str]:
        """QEMU's arguments for its one card."""
        return nic(f"stream,id=net0,server=off,addr.type=unix,addr.path={self.socket}", self.mac)


class GuestPlace:
    """A running guest."""

    def __init__(self, guest: Guest, plan: GuestPlan) -> None:
        self.guest = guest
        self.name = plan.name
        self.addresses = plan.addresses

    async def ping(self, address: str) -> PingResult:
        return await self.guest.ping(address, count=5)

    async def iperf_server(self) -> None:
        await self.guest.iperf_server()

    async def iperf_to(self, target: Place, *, seconds: int) -> Stream:
        """One TCP stream over IPv4."""
        await target.iperf_server()
        return stream_of(self, target, await self.guest.iperf(target.addresses[0], seconds=seconds))


async def boot_all(
    undo: AsyncExitStack, image: BuiltImage, plans: Sequence[GuestPlan], folder: Path, accel: str
) -> list[GuestPlace]:
    """Boot all at once; their logs go to folders in `folder`."""
    guests = Guests(image, folder)
    undo.push_async_callback(guests.close)
    booted = await asyncio.gather(*(_boot(guests, plan, accel) for plan in plans), return_exceptions=True)
    for outcome in booted:
        if isinstance(outcome, BaseException):
            raise outcome
    return [place for place in booted if isinstance(place, GuestPlace)]


async def _boot(guests: Guests, plan: GuestPlan, accel: str) -> GuestPlace:
    guest = await guests.boot(plan.name, network=plan.network(), accel=accel)
    await guest.configure(plan.mac, [f"{plan.addresses[0]}/24", f"{plan.addresses[1]}/64"])
    return GuestPlace(guest, plan)
