"""How the guests of these tests are wired: the PORT that vbackend gets and the -netdev that QEMU gets, by transport."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.guest import Guest, Guests, nic

__all__ = ["DATAGRAM", "DIALLED", "LISTENING", "TRANSPORTS", "Transport", "boot", "mac"]


@dataclass(frozen=True, slots=True)
class Transport:
    """One way for a guest to reach vbackend. Both functions take the folder and the guest's name."""

    name: str
    port: Callable[[Path, str], str]
    netdev: Callable[[Path, str], str]


LISTENING = Transport(
    "stream-qemu-dials",
    lambda folder, guest: f"stream:unix:{folder}/{guest}.sock,name={guest}",
    lambda folder, guest: f"stream,id=net0,server=off,addr.type=unix,addr.path={folder}/{guest}.sock",
)
DIALLED = Transport(
    "stream-qemu-listens",
    lambda folder, guest: f"stream:unix:{folder}/{guest}.sock,dial,name={guest}",
    lambda folder, guest: f"stream,id=net0,server=on,addr.type=unix,addr.path={folder}/{guest}.sock",
)
DATAGRAM = Transport(
    "dgram",
    lambda folder, guest: f"dgram:unix:{folder}/{guest}.ours:{folder}/{guest}.qemu,name={guest}",
    lambda folder, guest: (
        f"dgram,id=net0,local.type=unix,local.path={folder}/{guest}.qemu,"
        f"remote.type=unix,remote.path={folder}/{guest}.ours"
    ),
)
TRANSPORTS = (LISTENING, DIALLED, DATAGRAM)


def mac(number: int) -> str:
    """The address of guest `number`'s card."""
    return f"52:54:00:00:00:{number:02x}"


async def boot(guests: Guests, transport: Transport, folder: Path, name: str, number: int) -> Guest:
    """Boot guest `number`, with 10.5.0.NUMBER and fd05::NUMBER on its card."""
    guest = await guests.boot(name, network=nic(transport.netdev(folder, name), mac(number)))
    await guest.configure(mac(number), [f"10.5.0.{number}/24", f"fd05::{number}/64"])
    return guest
