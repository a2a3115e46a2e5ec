"""Two guests on vhost-user ports of one vbackend, and what tells that traffic goes on between them.

guest a ── vhost-user ── vbackend ── vhost-user ── guest b
10.5.0.1                                           10.5.0.2
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from tests.guests.stream import Stream
from tests.guests.vhost import Card, boot, configure
from tests.guests.wiring import mac
from tests.support.guest import Guest, Guests
from tests.support.run import vbackend_run

__all__ = ["Pair", "pair"]

# What a guest's kernel says of rings that make no sense, as when a descriptor comes back twice. Linux: BAD_RING() in
# virtio_ring.c, receive_buf() in virtio_net.c, dev_watchdog(), and what it says of itself.
COMPLAINTS: Final = (
    "is not a head|out of range|bad gso|short packet|rx error|buffers out of|WATCHDOG|WARNING:|BUG:"
)

# Longer than TCP's timer can have backed off to: what goes on later than this is stuck.
BACKED_OFF_S: Final = 60.0


class Pair:
    """Guests are numbered 1 and 2, as their addresses. `pair` makes one."""

    def __init__(self, folder: Path, cards: Sequence[Card], ports: Sequence[str], stack: ExitStack) -> None:
        self.cards: Final = list(cards)
        self.guests: list[Guest] = []
        self._folder: Final = folder
        self._ports: Final = ports
        self._stack: Final = stack
        self.restart()

    def restart(self) -> None:
        """Start vbackend, in the place of one that was killed."""
        self.run = self._stack.enter_context(vbackend_run(self._folder, *self._ports))

    def guest(self, number: int) -> Guest:
        return self.guests[number - 1]

    def card(self, number: int) -> Card:
        return self.cards[number - 1]

    async def configure(self, number: int) -> None:
        """Give the guest its addresses, once it has forgotten them."""
        await configure(self.guest(number), self.card(number), number)

    async def streams(self, *, breath_us: int = 20_000) -> tuple[Stream, Stream]:
        """From a to b, and back."""
        a, b = self.guests
        return await asyncio.gather(
            Stream.start(a, b, "10.5.0.2", breath_us=breath_us),
            Stream.start(b, a, "10.5.0.1", breath_us=breath_us),
        )

    def flows(self) -> None:
        """Streams that run go on, both ways: nothing else is as much."""
        for card in self.cards:
            goal = self.run.port(card.name).tx.bytes_out + 200_000
            self.run.wait_for(
                lambda goal=goal, card=card: self.run.port(card.name).tx.bytes_out > goal,  # type: ignore[misc]
                f"the stream to port {card.name} goes on",
                within_s=BACKED_OFF_S,
            )

    async def works(self) -> None:
        """Pings and new streams arrive, both ways."""
        a, b = self.guests
        await asyncio.gather(a.wait_ping("10.5.0.2"), b.wait_ping("10.5.0.1"))
        streams = await self.streams()
        self.flows()
        await asyncio.gather(*(stream.finish() for stream in streams))

    async def is_silent(self, number: int) -> None:
        """The other guest gets no answer from this one."""
        result = await self.guest(3 - number).ping(f"10.5.0.{number}", count=1, wait_s=1)
        assert result.received == 0, result

    async def wait_carrier(self, number: int, up: bool) -> None:
        """Until the guest sees that its cable is plugged in, or not."""
        name = await self.guest(number).interface(mac(number))
        await self.guest(number).wait_until(f"grep -qx {up:d} /sys/class/net/{name}/carrier")

    async def is_sound(self) -> None:
        """Neither the guests' kernels nor vbackend have anything to complain of."""
        for number, guest in enumerate(self.guests, 1):
            told = await guest.check(f"dmesg | grep -E '{COMPLAINTS}' || true")
            assert not told, f"guest {guest.name} says:\n{told}"
            name = await guest.interface(mac(number))
            errors = await guest.check(f"cat /sys/class/net/{name}/statistics/[rt]x_*errors | sort -u")
            assert errors.split() == ["0"], f"guest {guest.name} has counted errors"
            port = self.run.port(self.card(number).name)
            assert port.vhost is not None, port
            assert [ring.problem for ring in port.vhost.rings] == ["", ""]


@asynccontextmanager
async def pair(
    guests: Guests, folder: Path, a: Card, b: Card, *more: str, spare: Sequence[str] = ()
) -> AsyncIterator[Pair]:
    """Boot guests with these cards. `more`: further arguments of both QEMUs; `spare`: further ports."""
    cards = (a, b)
    with ExitStack() as stack:
        net = Pair(folder, cards, [*(card.port(folder) for card in cards), *spare], stack)
        net.guests = await asyncio.gather(
            *(boot(guests, card, folder, number, *more) for number, card in enumerate(cards, 1))
        )
        await net.guest(1).wait_ping("10.5.0.2")
        yield net
