"""Guests over vhost-user and the host on one switch: both QEMUs, both ring layouts, one and four queues, with and
without offloads. Three rounds of two guests have every pair of these choices.

guest a ── vhost-user ── vbackend ── vhost-user ── guest b
10.5.0.1                    │                      10.5.0.2
                           tap0, host side, 10.5.0.254, in a namespace
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.guests.vhost import Card, boot
from tests.guests.wiring import mac
from tests.support.guest import Guest, Guests
from tests.support.netns import Namespace, namespace
from tests.support.run import Run, vbackend_run
from tests.support.transfer import Host, Shell, transfer
from vbackend.qemu.version import QEMU

pytestmark = [pytest.mark.guest, pytest.mark.root, pytest.mark.timeout(240)]

HOST = "10.5.0.254"
OLD, NEW = "installed", "backports"
SPLIT, FOUR, PLAIN, DIAL = ",packed=off", ",queues=4", ",offloads=off", ",dial"
ROUNDS = [
    ((OLD, SPLIT), (NEW, FOUR)),
    ((OLD, FOUR + PLAIN), (NEW, SPLIT + PLAIN)),
    ((NEW, DIAL), (OLD, SPLIT + FOUR + PLAIN + DIAL)),
]


@pytest.mark.parametrize("round_", ROUNDS, ids=lambda round_: "-".join(word + keys for word, keys in round_))
async def test_everybody_reaches_everybody(
    round_: Sequence[tuple[str, str]], newer_qemu: str, guests: Guests, tmp_path: Path
) -> None:
    binaries = {OLD: QEMU, NEW: newer_qemu}
    cards = [Card(name, keys, binaries[which]) for name, (which, keys) in zip("ab", round_, strict=True)]
    with namespace() as host:
        tap = f"tap:tap0,netns={host.name},addr={HOST}/24,addr=fd05::fe/64"
        with vbackend_run(tmp_path, *(card.port(tmp_path) for card in cards), tap) as run:
            a, b = await asyncio.gather(
                *(boot(guests, card, tmp_path, number) for number, card in enumerate(cards, 1))
            )
            await _pings(a, b, host)
            await _transfers(a, b, Host(host))
            for card, guest, number in zip(cards, (a, b), (1, 2), strict=True):
                await _as_negotiated(run, card, guest, number)


async def _pings(a: Guest, b: Guest, host: Namespace) -> None:
    for guest, others in ((a, ("10.5.0.2", HOST, "fd05::2", "fd05::fe")), (b, ("10.5.0.1", HOST, "fd05::1"))):
        for address in others:
            await guest.wait_ping(address)
            result = await guest.ping(address, count=5, size=3000)
            assert (result.received, result.duplicates) == (5, 0), f"{guest.name} to {address}: {result}"
    for address in ("10.5.0.1", "10.5.0.2", "fd05::1", "fd05::2"):
        await asyncio.to_thread(host.run, "ping", "-n", "-c", "3", "-i", "0.1", "-W", "3", address)


async def _transfers(a: Shell, b: Shell, host: Shell) -> None:
    places = ((a, "10.5.0.1"), (b, "10.5.0.2"), (host, HOST))
    for sender, _ in places:
        for receiver, address in places:
            if sender is not receiver:
                await transfer(sender, receiver, address)
    await asyncio.gather(transfer(a, b, "fd05::2"), transfer(b, a, "fd05::1"))


async def _as_negotiated(run: Run, card: Card, guest: Guest, number: int) -> None:
    """What the guest's driver uses is what the port was told to offer."""
    vhost = run.port(card.name).vhost
    assert vhost is not None
    assert ("RING_PACKED" in vhost.features) is (",packed=off" not in card.keys)
    assert ("HOST_TSO4" in vhost.features) is (PLAIN not in card.keys)
    assert ("GUEST_TSO4" in vhost.features) is (PLAIN not in card.keys)
    assert [ring.enabled for ring in vhost.rings] == [True] * (2 * card.queues)
    assert not any(ring.problem for ring in vhost.rings)
    name = await guest.interface(mac(number))
    told = await guest.check(f"ethtool -k {name}")
    assert f"tcp-segmentation-offload: {'off' if PLAIN in card.keys else 'on'}" in told
