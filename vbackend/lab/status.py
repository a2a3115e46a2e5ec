"""What a running lab looks like at one moment: the answer of `lab-status`, the food of `vbackend ps`.

Pydantic models, and the pure function that makes them of what the daemon knows. A link's counters are those of what
reached each of its ends: `tx` of the end's port.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

from vbackend.lab.model import is_vm_end
from vbackend.lab.picture import Machine, Picture
from vbackend.services.snapshot import StationSnapshot
from vbackend.snapshot import BackendSnapshot, PortSnapshot

__all__ = [
    "EndStatus",
    "LabStatus",
    "LeaseStatus",
    "LinkStatus",
    "NicStatus",
    "VmSeen",
    "VmState",
    "VmStatus",
    "lab_status",
    "rates",
]

VmState = Literal["building", "booting", "running", "stopped", "failed"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NicStatus(_Model):
    name: str
    mac: str
    link: str | None  # the cable's title, or SWITCH/VM:NIC; None: joined to nothing
    connected: bool  # QEMU and vbackend


class VmStatus(_Model):
    name: str
    state: VmState
    reason: str = ""
    pid: int | None = None  # QEMU's
    since: float  # seconds since the epoch, of QEMU's start
    agent: bool  # whether commands can be run in it
    nics: tuple[NicStatus, ...] = ()


class EndStatus(_Model):
    """One end of a link. Counters are of what went to it since its port was opened."""

    name: str
    up: bool
    connected: bool
    frames: int
    bytes: int
    dropped: int
    sent: int = 0  # bytes that came from it
    impair: dict[str, str] = {}


class LinkStatus(_Model):
    """A cable with its two ends, or one end on a switch."""

    title: str
    kind: Literal["cable", "switch"]
    up: bool
    ends: tuple[EndStatus, ...]


class LeaseStatus(_Model):
    """An address that a switch's DHCP has given, for the time being."""

    switch: str
    mac: str
    address: str
    hostname: str | None


class LabStatus(_Model):
    name: str
    file: str | None
    pid: int  # the daemon's
    since: float  # seconds since the epoch, of the daemon's start
    changing: bool  # something is being applied
    ending: bool  # the daemon is about to end
    vms: tuple[VmStatus, ...]
    links: tuple[LinkStatus, ...]
    leases: tuple[LeaseStatus, ...] = ()


class VmSeen(_Model):
    """What only the daemon knows of a VM."""

    machine: Machine
    state: VmState
    reason: str
    pid: int | None
    since: float


def lab_status(
    picture: Picture,
    vms: Mapping[str, VmSeen],
    backend: BackendSnapshot,
    *,
    file: str | None,
    changing: bool,
    ending: bool,
    stations: Mapping[str, StationSnapshot],
    now: float,
) -> LabStatus:
    """Put together what runs, how the VMs are and what the backend counts. Pure; `now`: seconds since the epoch."""
    ports = {port.name: port for port in backend.ports}
    return LabStatus(
        name=backend.name,
        file=file,
        pid=backend.pid,
        since=backend.started,
        changing=changing,
        ending=ending,
        vms=tuple(_vm(name, seen, picture, ports) for name, seen in vms.items()),
        links=tuple(_links(picture, ports)),
        leases=tuple(
            LeaseStatus(switch=switch, mac=lease.mac, address=str(lease.address), hostname=lease.hostname)
            for switch, station in stations.items()
            for lease in station.leases
            if lease.state == "bound" and lease.until > now
        ),
    )


def rates(before: LabStatus, now: LabStatus, seconds: float) -> dict[str, tuple[float, float]]:
    """Bits a second over each link that was there all the time. Pure.

    Of a cable: from its first end to its second, and back; of a switch's link: from its end, and to it.
    """
    earlier = {link.title: link for link in before.links}
    found = {}
    for link in now.links:
        if link.title in earlier and len(link.ends) == len(earlier[link.title].ends):
            first, last = link.ends[0], link.ends[-1]
            was, was_last = earlier[link.title].ends[0], earlier[link.title].ends[-1]
            there = last.bytes - was_last.bytes if link.kind == "cable" else first.sent - was.sent
            back = first.bytes - was.bytes
            found[link.title] = (max(0, there) * 8 / seconds, max(0, back) * 8 / seconds)
    return found


def _vm(name: str, seen: VmSeen, picture: Picture, ports: Mapping[str, PortSnapshot]) -> VmStatus:
    def nic(each: str, mac: str) -> NicStatus:
        end = f"{name}:{each}"
        place, port = picture.places.get(end), ports.get(end)
        link = None if place is None else _title(picture, place.segment, end)
        connected = port is not None and port.session is not None
        return NicStatus(name=each, mac=mac, link=link, connected=connected)

    return VmStatus(
        name=name,
        state=seen.state,
        reason=seen.reason,
        pid=seen.pid,
        since=seen.since,
        agent=seen.machine.vm.has_agent,
        nics=tuple(nic(each, config.mac or "") for each, config in seen.machine.nics.items()),
    )


def _links(picture: Picture, ports: Mapping[str, PortSnapshot]) -> list[LinkStatus]:
    found: dict[str, LinkStatus] = {}
    for end, place in picture.places.items():
        segment, title = picture.segments[place.segment], _title(picture, place.segment, end)
        before = found[title].ends if title in found else ()
        ends = (*before, _end(end, place.impair, ports.get(end)))
        found[title] = LinkStatus(title=title, kind=segment.kind, up=segment.state.up, ends=ends)
    return list(found.values())


def _end(name: str, impair: dict[str, str], port: PortSnapshot | None) -> EndStatus:
    if port is None:
        return EndStatus(name=name, up=False, connected=False, frames=0, bytes=0, dropped=0, impair=impair)
    return EndStatus(
        name=name,
        up=port.up,
        connected=port.session is not None or (port.state == "connected" and not is_vm_end(name)),
        frames=port.tx.frames_out,
        bytes=port.tx.bytes_out,
        dropped=port.tx.dropped,
        sent=port.rx.bytes_out,
        impair=impair,
    )


def _title(picture: Picture, segment: str, end: str) -> str:
    return segment if picture.segments[segment].kind == "cable" else f"{segment}/{end}"
