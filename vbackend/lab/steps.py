"""The vocabulary of change: what applying a lab does, and undoes. Pure data.

Each step says all that it needs and all that its undo needs, so `inverse` is a matter of names. Segments are called as
their switch, or as their cable's title; ends as `end_name` calls them, which is also their port's name in the Backend.

Rule: a step is done or not done. A World whose method raises, or is cancelled, has taken its own half back.
Not here: what a lab looks like after a step (picture.py), which steps lead from one to another (plan.py).
"""

from dataclasses import dataclass, field
from typing import Final, Literal, assert_never

from vbackend.lab.model import Capture, Nic, Switch, Vm, end_name

__all__ = [
    "AddNic",
    "AddSegment",
    "CableState",
    "EndPort",
    "JoinEnd",
    "LeaveEnd",
    "NicPort",
    "RemoveNic",
    "RemoveSegment",
    "Service",
    "SetCable",
    "SetImpairment",
    "StartCapture",
    "StartService",
    "StartVm",
    "Step",
    "StopCapture",
    "StopService",
    "StopVm",
    "SwitchPort",
    "describe",
    "inverse",
]

SegmentKind = Literal["switch", "cable"]


@dataclass(frozen=True, slots=True)
class CableState:
    """Whether a cable is in order, and how its ends notice. A switch always has the default."""

    up: bool = True
    carrier: str | Literal[False] = "0"  # as Cable.carrier


@dataclass(frozen=True, slots=True)
class NicPort:
    """What the port of a VM's end depends on. A change of it means another port."""

    transport: Literal["stream", "vhost-user"] = "stream"
    queues: int = 1
    mtu: int | None = None  # told to the guest; None for stream, where QEMU tells it


@dataclass(frozen=True, slots=True)
class SwitchPort:
    """A cable's end on a switch, which has another port there."""

    switch: str


EndPort = NicPort | SwitchPort | None  # None: of a PORT


@dataclass(frozen=True, slots=True)
class Service:
    """What a switch's own station serves."""

    switch: Switch  # without its ports
    reserved: dict[str, str] = field(default_factory=dict)  # MAC address -> IPv4 address, from dhcp.hosts
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)  # VM -> addresses, for dns
    guests: dict[str, str] = field(default_factory=dict)  # MAC address -> VM, of the switch's network


@dataclass(frozen=True, slots=True)
class AddSegment:
    name: str
    kind: SegmentKind
    state: CableState = CableState()  # also of ends that join later


@dataclass(frozen=True, slots=True)
class RemoveSegment:
    """Of a segment without ends."""

    name: str
    kind: SegmentKind
    state: CableState = CableState()


@dataclass(frozen=True, slots=True)
class JoinEnd:
    """Open the end's port in the segment. With `impair` from its first frame on."""

    segment: str
    end: str  # VM:NIC, SWITCH:NAME or a PORT
    port: EndPort = None
    impair: dict[str, str] = field(default_factory=dict)  # keys of a PORT, of what goes to the end


@dataclass(frozen=True, slots=True)
class LeaveEnd:
    """Close the end's port. A running guest keeps its NIC, without a link."""

    segment: str
    end: str
    port: EndPort = None
    impair: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StartVm:
    """Start a VM with these NICs, in this order, until its agent has done `files`, `addr` and `start`."""

    name: str
    vm: Vm
    nics: dict[str, Nic]  # all of them, with their MAC addresses


@dataclass(frozen=True, slots=True)
class StopVm:
    name: str
    vm: Vm
    nics: dict[str, Nic]


@dataclass(frozen=True, slots=True)
class AddNic:
    """Plug a NIC into a running VM."""

    vm: str
    nic: str
    config: Nic  # with its MAC address


@dataclass(frozen=True, slots=True)
class RemoveNic:
    """Unplug a NIC from a running VM."""

    vm: str
    nic: str
    config: Nic


@dataclass(frozen=True, slots=True)
class SetImpairment:
    """Change what happens to frames on their way to an end: all of `keys`, and nothing else."""

    segment: str
    end: str
    keys: dict[str, str]
    before: dict[str, str]


@dataclass(frozen=True, slots=True)
class SetCable:
    title: str
    state: CableState
    before: CableState


@dataclass(frozen=True, slots=True)
class StartService:
    switch: str
    service: Service


@dataclass(frozen=True, slots=True)
class StopService:
    switch: str
    service: Service


@dataclass(frozen=True, slots=True)
class StartCapture:
    """Record to a file. Links named that come later are recorded from then on; none named: all.

    A file that a StopCapture of the same apply closed goes on with another section, since the undo of a stop may lose
    nothing.
    """

    capture: Capture


@dataclass(frozen=True, slots=True)
class StopCapture:
    capture: Capture


Step = (
    AddSegment
    | RemoveSegment
    | JoinEnd
    | LeaveEnd
    | StartVm
    | StopVm
    | AddNic
    | RemoveNic
    | SetImpairment
    | SetCable
    | StartService
    | StopService
    | StartCapture
    | StopCapture
)

_SERVICES: Final = ("dhcp", "ra", "dns", "nat")


def inverse(step: Step) -> Step:
    """The step that takes `step` back."""
    match step:
        case AddSegment(name, kind, state):
            return RemoveSegment(name, kind, state)
        case RemoveSegment(name, kind, state):
            return AddSegment(name, kind, state)
        case JoinEnd(segment, end, port, impair):
            return LeaveEnd(segment, end, port, impair)
        case LeaveEnd(segment, end, port, impair):
            return JoinEnd(segment, end, port, impair)
        case StartVm(name, vm, nics):
            return StopVm(name, vm, nics)
        case StopVm(name, vm, nics):
            return StartVm(name, vm, nics)
        case AddNic(owner, nic, config):
            return RemoveNic(owner, nic, config)
        case RemoveNic(owner, nic, config):
            return AddNic(owner, nic, config)
        case SetImpairment(segment, end, keys, before):
            return SetImpairment(segment, end, before, keys)
        case SetCable(title, now, was):
            return SetCable(title, was, now)
        case StartService(switch, service):
            return StopService(switch, service)
        case StopService(switch, service):
            return StartService(switch, service)
        case StartCapture(capture):
            return StopCapture(capture)
        case StopCapture(capture):
            return StartCapture(capture)
        case _:
            assert_never(step)


def describe(step: Step) -> str:
    """One line for people: "+ vm r3 (router, 256M: eth0)", "~ core to r2:eth1: delay 50ms → 10ms"."""
    match step:
        case AddSegment(name, kind, state) | RemoveSegment(name, kind, state):
            return f"{_sign(step)} {kind} {name}{'' if state.up else ' (down)'}"
        case JoinEnd(segment, end, _, impair) | LeaveEnd(segment, end, _, impair):
            told = ", ".join(f"{key} {value}" for key, value in impair.items())
            return f"{_sign(step)} {segment}: {end_name(end)}{f' ({told})' if told else ''}"
        case StartVm(name, vm, nics) | StopVm(name, vm, nics):
            return f"{_sign(step)} vm {name} ({_machine(vm)}{': ' if nics else ''}{' '.join(nics)})"
        case AddNic(owner, nic, config) | RemoveNic(owner, nic, config):
            return f"{_sign(step)} nic {owner}:{nic} ({config.model}, {config.transport})"
        case SetImpairment(segment, end, keys, before):
            return f"~ {segment} to {end_name(end)}: {_difference(before, keys)}"
        case SetCable(title, now, was):
            return f"~ cable {title}: {_difference(_words(was), _words(now))}"
        case StartService(switch, service) | StopService(switch, service):
            found = [word for word in _SERVICES if getattr(service.switch, word) is not None]
            return f"{_sign(step)} services of {switch}: {', '.join(found or ['ping'])}"
        case StartCapture(capture) | StopCapture(capture):
            return f"{_sign(step)} capture {capture.file} of {', '.join(capture.links) or 'all links'}"
        case _:
            assert_never(step)


def _sign(step: Step) -> str:
    return (
        "+"
        if isinstance(step, AddSegment | JoinEnd | StartVm | AddNic | StartService | StartCapture)
        else "-"
    )


def _machine(vm: Vm) -> str:
    what = vm.image or vm.kernel or vm.disk or ""
    words = [what.rpartition("/")[2], vm.memory or "", "" if vm.cpus == 1 else f"{vm.cpus} CPUs"]
    return ", ".join(word for word in words if word)


def _words(state: CableState) -> dict[str, str]:
    return {"": "up" if state.up else "down", "carrier": "off" if state.carrier is False else state.carrier}


def _difference(before: dict[str, str], after: dict[str, str]) -> str:
    return ", ".join(
        f"{key} {before.get(key, 'none')} → {after.get(key, 'none')}".lstrip()
        for key in before | after
        if before.get(key) != after.get(key)
    )
