"""How the guests of the vhost-user tests are wired: with the arguments that `vbackend args` gives."""

from dataclasses import dataclass
from pathlib import Path

from tests.guests.wiring import mac
from tests.support.guest import Guest, Guests
from tests.support.uml import UmlGuest
from vbackend.ports.parse import parse_port
from vbackend.qemu.accel import accelerator
from vbackend.qemu.netdev import netdev_arguments
from vbackend.qemu.options import shared_memory
from vbackend.qemu.version import QEMU, qemu_version

__all__ = ["Card", "boot", "boot_uml", "configure", "network"]


@dataclass(frozen=True, slots=True)
class Card:
    """A card of a guest, and the QEMU it is in."""

    name: str
    keys: str = ""  # of the PORT, e.g. ",packed=off"
    binary: str = QEMU

    def port(self, folder: Path) -> str:
        return f"vhost-user:{folder}/{self.name}.sock,name={self.name}{self.keys}"

    @property
    def queues(self) -> int:
        return 4 if "queues=4" in self.keys else 1


def network(card: Card, folder: Path, number: int, memory_mib: int, *, rom: bool = False) -> list[str]:
    """QEMU's arguments for the card of guest `number`, whose memory is shared. `rom`: it can boot from the network."""
    kvm = accelerator(card.binary) == "kvm"
    found = netdev_arguments(
        parse_port(card.port(folder)),
        qemu_version(card.binary),
        netdev_id="net0",
        mac=mac(number),
        model="virtio-net-pci,id=nic0" + ("" if rom else ",romfile="),
        kvm=kvm,
    )
    return [*shared_memory(memory_mib << 20), *found.arguments]


async def boot(guests: Guests, card: Card, folder: Path, number: int, *more: str) -> Guest:
    """Boot guest `number`, with 10.5.0.NUMBER and fd05::NUMBER on its card. `more`: further arguments."""
    arguments = [*network(card, folder, number, guests.image.memory_mib), *more]
    guest = await guests.boot(card.name, network=arguments, binary=card.binary)
    await configure(guest, card, number)
    return guest


async def configure(guest: Guest, card: Card, number: int) -> None:
    name = await guest.configure(mac(number), [f"10.5.0.{number}/24", f"fd05::{number}/64"])
    if card.queues > 1:
        await guest.check(f"ethtool -L {name} combined {card.queues}")


async def boot_uml(initrd: Path, folder: Path, name: str, number: int, *, home: str = "uml") -> UmlGuest:
    """Boot user-mode Linux `number` at the socket of port `name`; its logs lie in a folder of their own."""
    place = folder / f"{home}-{name}"
    place.mkdir()
    guest = await UmlGuest.boot(initrd, place, name=name, cards=[folder / f"{name}.sock"])
    await guest.configure(await guest.mac(), [f"10.5.0.{number}/24", f"fd05::{number}/64"])
    return guest
