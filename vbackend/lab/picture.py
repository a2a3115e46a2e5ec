"""What runs, as a value: segments, who is on them, VMs, services, captures. And the same after one more step.

A `Picture` may be anything between two labs, so it is laxer than a `Lab`: cables with one end, switches whose VM is
not there yet. `after` is the law: what a step needs, and what it changes; plan.py keeps to it, tests and worlds may
check by it. Pure; pydantic's TypeAdapter writes and reads a Picture as JSON.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_interface
from typing import Final, TypeVar, assert_never

from vbackend.errors import ConfigError
from vbackend.lab.model import Capture, Lab, Nic, Vm, end_name, is_vm_end, split_end
from vbackend.lab.names import mac_address
from vbackend.lab.steps import (
    AddNic,
    AddSegment,
    CableState,
    EndPort,
    JoinEnd,
    LeaveEnd,
    NicPort,
    RemoveNic,
    RemoveSegment,
    SegmentKind,
    Service,
    SetCable,
    SetImpairment,
    StartCapture,
    StartService,
    StartVm,
    Step,
    StopCapture,
    StopService,
    StopVm,
    SwitchPort,
    describe,
)
from vbackend.ports import values

__all__ = ["NOTHING", "Machine", "Picture", "Place", "Segment", "after", "nic_port", "picture"]

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Segment:
    kind: SegmentKind
    state: CableState = field(default_factory=CableState)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an end is."""

    segment: str
    end: str  # as in the file
    port: EndPort = None
    impair: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Machine:
    vm: Vm  # without its NICs
    nics: dict[str, Nic] = field(default_factory=dict)  # all, with MAC addresses


@dataclass(frozen=True, slots=True)
class Picture:
    segments: dict[str, Segment] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)  # by the end's name
    vms: dict[str, Machine] = field(default_factory=dict)
    services: dict[str, Service] = field(default_factory=dict)  # by switch
    captures: dict[str, Capture] = field(default_factory=dict)  # by file

    def links(self) -> set[str]:
        """Titles, as Lab.links."""
        cables = {name for name, segment in self.segments.items() if segment.kind == "cable"}
        ends = {f"{place.segment}/{end}" for end, place in self.places.items() if place.segment not in cables}
        return cables | ends


NOTHING: Final = Picture()


def nic_port(nic: Nic) -> NicPort:
    """The port that a NIC needs."""
    if nic.transport == "stream":
        return NicPort()
    return NicPort(nic.transport, nic.queues, nic.mtu)


def picture(lab: Lab) -> Picture:
    """What runs when the lab does."""
    vms = {}
    for name, vm in lab.vm.items():
        nics = {
            nic: config.model_copy(update={"mac": config.mac or mac_address(lab.name, name, nic)})
            for nic, config in lab.nics(name).items()
        }
        vms[name] = Machine(vm.model_copy(update={"nic": {}}), nics)

    def place(segment: str, end: str, impair: dict[str, str]) -> Place:
        if not is_vm_end(end):
            return Place(segment, end, None, impair)
        owner, nic = split_end(end)
        if lab.is_switch_end(end):
            return Place(segment, end, SwitchPort(owner), impair)
        return Place(segment, end, nic_port(vms[owner].nics[nic]), impair)

    segments, places, services = dict[str, Segment](), dict[str, Place](), dict[str, Service]()
    for name, switch in lab.switch.items():
        segments[name] = Segment("switch")
        places |= {end_name(end): place(name, end, {}) for end in switch.ports}
        if switch.addr or switch.nat is not None:
            services[name] = _service(lab, name, vms)
    for cable in lab.cable:
        title = cable.title
        segments[title] = Segment("cable", CableState(cable.up, cable.carrier))
        there, back = cable.directions()
        for end, impair in zip(cable.ends, (back, there), strict=True):
            places[end_name(end)] = place(title, end, impair)
    return Picture(segments, places, vms, services, {capture.file: capture for capture in lab.capture})


def _service(lab: Lab, name: str, vms: Mapping[str, Machine]) -> Service:
    switch, here = lab.switch[name], [split_end(end) for end in lab.cards(name)]
    reserved, names = dict[str, str](), dict[str, tuple[str, ...]]()
    if switch.dns is not None:
        for name, machine in vms.items():
            near = [address for owner, nic in here if owner == name for address in machine.nics[nic].addr]
            far = [address for nic in machine.nics.values() for address in nic.addr]
            if found := near or far:
                names[name] = tuple(str(ip_interface(address).ip) for address in found)
    for host, address in ({} if switch.dhcp is None else switch.dhcp.hosts).items():
        owner, _, nic = host.partition(":")
        if owner not in vms:
            reserved[values.mac_address("mac", host).hex(":")] = address
            continue
        nic = nic or next(nic for name, nic in here if name == owner)
        reserved[str(vms[owner].nics[nic].mac)] = address
        if switch.dns is not None:
            names.setdefault(owner, (address,))
    guests = {str(vms[vm].nics[nic].mac): vm for vm, nic in here}
    return Service(switch.model_copy(update={"ports": ()}), reserved, names, guests)


def after(now: Picture, step: Step) -> Picture:
    """The picture when `step` is done. ConfigError: it cannot be done now."""
    try:
        return _after(now, step)
    except ConfigError as error:
        raise ConfigError(f"step {describe(step)!r}: {error}") from None


def _after(now: Picture, step: Step) -> Picture:
    match step:
        case AddSegment(name, kind, state):
            return replace(now, segments=_with(now.segments, name, Segment(kind, state)))
        case RemoveSegment(name, kind, state):
            here = SwitchPort(name)
            if left := [end for end, at in now.places.items() if at.segment == name or at.port == here]:
                raise ConfigError(f"{', '.join(left)} must leave first")
            if name in now.services:
                raise ConfigError("its services must stop first")
            return replace(now, segments=_without(now.segments, name, Segment(kind, state)))
        case JoinEnd(segment, end, port, impair):
            found = _get(now.segments, segment)
            present = sum(place.segment == segment for place in now.places.values())
            if found.kind == "cable" and present == 2:
                raise ConfigError("the cable has two ends already")
            if isinstance(port, SwitchPort) and _get(now.segments, port.switch).kind != "switch":
                raise ConfigError(f"{port.switch!r} is a cable")
            place = Place(segment, end, port, impair)
            return replace(now, places=_with(now.places, end_name(end), place))
        case LeaveEnd(segment, end, port, impair):
            place = Place(segment, end, port, impair)
            return replace(now, places=_without(now.places, end_name(end), place))
        case StartVm(name, vm, nics):
            for nic, config in nics.items():
                _check_rings(now, name, nic, config)
            return replace(now, vms=_with(now.vms, name, Machine(vm, nics)))
        case StopVm(name, vm, nics):
            return replace(now, vms=_without(now.vms, name, Machine(vm, nics)))
        case AddNic(owner, nic, config):
            _check_rings(now, owner, nic, config)
            machine = _get(now.vms, owner)
            changed = replace(machine, nics=_with(machine.nics, nic, config))
            return replace(now, vms=now.vms | {owner: changed})
        case RemoveNic(owner, nic, config):
            machine = _get(now.vms, owner)
            changed = replace(machine, nics=_without(machine.nics, nic, config))
            return replace(now, vms=now.vms | {owner: changed})
        case SetImpairment(segment, end, keys, before):
            place = _get(now.places, end_name(end))
            if (place.segment, place.impair) != (segment, before):
                raise ConfigError("the end is elsewhere, or impaired otherwise")
            return replace(now, places=now.places | {end_name(end): replace(place, impair=keys)})
        case SetCable(title, state, before):
            if _get(now.segments, title) != Segment("cable", before):
                raise ConfigError("the cable is in another state")
            return replace(now, segments=now.segments | {title: Segment("cable", state)})
        case StartService(switch, service):
            if _get(now.segments, switch).kind != "switch":
                raise ConfigError("a cable has no services")
            return replace(now, services=_with(now.services, switch, service))
        case StopService(switch, service):
            return replace(now, services=_without(now.services, switch, service))
        case StartCapture(capture):
            if lacking := set(capture.links) - now.links():
                raise ConfigError(f"there is no link {', '.join(sorted(lacking))}")
            return replace(now, captures=_with(now.captures, capture.file, capture))
        case StopCapture(capture):
            return replace(now, captures=_without(now.captures, capture.file, capture))
        case _:
            assert_never(step)


def _check_rings(now: Picture, vm: str, nic: str, config: Nic) -> None:
    """QEMU's netdev vhost-user waits, and its monitor with it, until somebody listens (net/vhost-user.c)."""
    if config.transport == "vhost-user":
        place = now.places.get(f"{vm}:{nic}")
        if place is None or place.port != nic_port(config):
            raise ConfigError(f"the port of {vm}:{nic} must be there first")


def _get(found: Mapping[str, V], key: str) -> V:
    try:
        return found[key]
    except KeyError:
        raise ConfigError(f"there is no {key!r}") from None


def _with(found: Mapping[str, V], key: str, value: V) -> dict[str, V]:
    if key in found:
        raise ConfigError(f"there is a {key!r} already")
    return {**found, key: value}


def _without(found: Mapping[str, V], key: str, value: V) -> dict[str, V]:
    if _get(found, key) != value:
        raise ConfigError(f"{key!r} is another one by now")
    return {name: each for name, each in found.items() if name != key}
