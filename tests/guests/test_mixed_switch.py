"""Whoever has offloads talks to whoever has not: one switch, five ports, TCP between all of them, hashes compared.

    s     a stream guest under QEMU: no offloads at all
    u, v  vhost-user guests (user-mode Linux), with and without offloads
    x, y  taps of the host, in namespaces, with and without offloads

What a sender leaves to do (checksums, segments) is settled by the port it leaves by; what comes in pieces is merged
for those that take it so.
"""

import asyncio
from pathlib import Path

import pytest

from tests.guests.vhost import boot_uml
from tests.guests.wiring import LISTENING, boot
from tests.support.guest import Guests
from tests.support.netns import namespace
from tests.support.run import vbackend_run
from tests.support.transfer import Host, Shell, transfer

pytestmark = [pytest.mark.guest, pytest.mark.root, pytest.mark.timeout(240)]

# What a driver can be told to do itself; the last is what it began with.
DRIVER = ["tx off", "tx on tso off gso off", "tso off gso on", "tx on tso on gso on"]


async def test_all_offloads_between_all_ports(uml: Path, guests: Guests, tmp_path: Path) -> None:
    with namespace() as x, namespace() as y:
        ports = [
            LISTENING.port(tmp_path, "s"),
            f"vhost-user:{tmp_path}/u.sock,name=u",
            f"vhost-user:{tmp_path}/v.sock,name=v,offloads=off",
            f"tap:tapx,name=x,netns={x.name},addr=10.5.0.4/24",
            f"tap:tapy,name=y,netns={y.name},addr=10.5.0.5/24,offloads=off",
        ]
        with vbackend_run(tmp_path, *ports) as run:
            s, u, v = await asyncio.gather(
                boot(guests, LISTENING, tmp_path, "s", 1),
                boot_uml(uml, tmp_path, "u", 2),
                boot_uml(uml, tmp_path, "v", 3),
            )
            async with u, v:
                places: list[Shell] = [s, u, v, Host(x), Host(y)]
                for sender in places:
                    await _to_all(sender, places)
                name = await u.interface(await u.mac())
                for told in DRIVER:
                    await u.check(f"ethtool -K {name} {told}")
                    x.run("ethtool", "-K", "tapx", *told.split())
                    await asyncio.gather(_to_all(u, places), _to_all(places[3], places))
                drops = {f"{port.name} {reason}" for port in run.snapshot().ports for reason in port.tx.drops}
                assert not any("offload" in each for each in drops), drops


async def _to_all(sender: Shell, places: list[Shell]) -> None:
    """To all of the others at once, by IPv4; `places[n]` is 10.5.0.(n + 1)."""
    numbered = enumerate(places, 1)
    others = [(place, f"10.5.0.{number}") for number, place in numbered if place is not sender]
    await asyncio.gather(*(transfer(sender, receiver, address) for receiver, address in others))
