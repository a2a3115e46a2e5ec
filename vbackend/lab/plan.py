"""Which steps lead from what runs to what is wanted. Pure.

Ordered so that each prefix is legal, forwards and undone (picture.after), and so that what cannot be had back is lost
last: a guest that is stopped forgets what it was doing. Hence the way down (captures, services, NICs, cables that are
cut, since others may only be up without them, ends, segments), the way up (segments, ends, settings, services,
captures, NICs, new VMs), then restarts, then removed VMs.
A VM is stopped earlier only when it would be in the way: its vhost-user port goes or changes, or it may hold
something of the host that another VM is to get (`args`, a persistent disk).

Changed under a running guest: links, impairments, cables, services, captures and NICs, where the machine has PCI
hot-plug. Every other field of a VM restarts it.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import groupby

from vbackend.errors import ConfigError
from vbackend.lab.model import Lab, Vm
from vbackend.lab.picture import NOTHING, Machine, Picture, Place, picture
from vbackend.lab.steps import (
    AddNic,
    AddSegment,
    JoinEnd,
    LeaveEnd,
    RemoveNic,
    RemoveSegment,
    SetCable,
    SetImpairment,
    StartCapture,
    StartService,
    StartVm,
    Step,
    StopCapture,
    StopService,
    StopVm,
    describe,
)

__all__ = ["groups", "plan", "steps_between", "summary"]


def plan(running: Lab | Picture | None, wanted: Lab | None) -> tuple[Step, ...]:
    """The steps from `running` to `wanted`; None: nothing runs. ConfigError: they are labs of different names."""
    if isinstance(running, Lab) and wanted is not None and running.name != wanted.name:
        raise ConfigError(
            f"lab {running.name!r} runs, and the file is of {wanted.name!r}; a lab keeps its name: take it down first"
        )
    return steps_between(_seen(running), _seen(wanted))


def _seen(lab: Lab | Picture | None) -> Picture:
    if lab is None:
        return NOTHING
    return lab if isinstance(lab, Picture) else picture(lab)


def groups(steps: Sequence[Step]) -> tuple[tuple[Step, ...], ...]:
    """What may be done side by side: starts of VMs, or stops, one behind the other. Everything else is alone."""
    found: list[tuple[Step, ...]] = []
    for kind, run in groupby(steps, type):
        same = tuple(run)
        found += [same] if kind in (StartVm, StopVm) else [(step,) for step in same]
    return tuple(found)


def steps_between(a: Picture, b: Picture) -> tuple[Step, ...]:
    return tuple(_steps(a, b))


def _steps(a: Picture, b: Picture) -> Iterator[Step]:
    gone = [name for name in a.vms if name not in b.vms]
    restarted = [name for name in a.vms if name in b.vms and _needs_restart(a.vms[name], b.vms[name])]
    early = [name for name in (*gone, *restarted) if _in_the_way(a, b, name)]
    running = [name for name in a.vms if name in b.vms and name not in restarted]

    for file, capture in a.captures.items():
        if b.captures.get(file) != capture:
            yield StopCapture(capture)
    for switch, service in a.services.items():
        if b.services.get(switch) != service:
            yield StopService(switch, service)
    yield from (_stop(a, name) for name in early)
    for name in running:
        for nic, config in a.vms[name].nics.items():
            if b.vms[name].nics.get(nic) != config:
                yield RemoveNic(name, nic, config)
    yield from _set_cables(a, b, up=False)
    for end, place in a.places.items():
        if not _stays(a, b, end):
            yield LeaveEnd(place.segment, place.end, place.port, place.impair)
    for title, segment in a.segments.items():
        if title not in b.segments or b.segments[title].kind != segment.kind:
            yield RemoveSegment(title, segment.kind, segment.state)

    for title, segment in b.segments.items():
        if title not in a.segments or a.segments[title].kind != segment.kind:
            yield AddSegment(title, segment.kind, segment.state)
    for end, place in b.places.items():
        if not _stays(a, b, end):
            yield JoinEnd(place.segment, place.end, place.port, place.impair)
        elif place.impair != a.places[end].impair:
            yield SetImpairment(place.segment, place.end, place.impair, a.places[end].impair)
    yield from _set_cables(a, b, up=True)
    for switch, service in b.services.items():
        if a.services.get(switch) != service:
            yield StartService(switch, service)
    for file, capture in b.captures.items():
        if a.captures.get(file) != capture:
            yield StartCapture(capture)
    for name in running:
        for nic, config in b.vms[name].nics.items():
            if a.vms[name].nics.get(nic) != config:
                yield AddNic(name, nic, config)

    yield from (_start(b, name) for name in b.vms if name not in a.vms)
    yield from (_stop(a, name) for name in restarted if name not in early)
    yield from (_start(b, name) for name in restarted)
    yield from (_stop(a, name) for name in gone if name not in early)


def _set_cables(a: Picture, b: Picture, *, up: bool) -> Iterator[Step]:
    """Those that are `up` afterwards."""
    for title, segment in b.segments.items():
        before = a.segments.get(title)
        if before is None or before.kind != segment.kind or before.state == segment.state:
            continue
        if segment.state.up is up:
            yield SetCable(title, segment.state, before.state)


def _start(there: Picture, name: str) -> StartVm:
    return StartVm(name, there.vms[name].vm, there.vms[name].nics)


def _stop(there: Picture, name: str) -> StopVm:
    return StopVm(name, there.vms[name].vm, there.vms[name].nics)


def _needs_restart(before: Machine, now: Machine) -> bool:
    return before.vm != now.vm or (before.nics != now.nics and not _hot_plugs(now.vm))


def _hot_plugs(vm: Vm) -> bool:
    """Machine "pc" has ACPI hot-plug on its one PCI bus; q35 has it only behind root ports, microvm has no PCI."""
    kind = vm.machine.partition(",")[0]
    return kind == "pc" or kind.startswith("pc-i440fx")


def _in_the_way(a: Picture, b: Picture, name: str) -> bool:
    """Whether a VM that will be stopped must be so before anything is changed."""
    machine = a.vms[name]
    return (
        bool(machine.vm.args)
        or machine.vm.persistent
        or any(
            _port(a.places.get(f"{name}:{nic}")) != _port(b.places.get(f"{name}:{nic}"))
            for nic, config in machine.nics.items()
            if config.transport == "vhost-user"
        )
    )


def _port(place: Place | None) -> object:
    return None if place is None else place.port


def _stays(a: Picture, b: Picture, end: str) -> bool:
    """Whether an end's port is the same one before and after."""
    if end not in a.places or end not in b.places:
        return False
    before, now = a.places[end], b.places[end]
    return (before.segment, before.end, before.port) == (now.segment, now.end, now.port) and (
        a.segments[before.segment].kind == b.segments[now.segment].kind
    )


def summary(steps: Sequence[Step]) -> tuple[str, ...]:
    """The lines of `vbackend plan`: one per step, but one alone for a VM that restarts or a NIC that is replaced."""
    stopped = {step.name: step for step in steps if isinstance(step, StopVm)}
    started = {step.name: step for step in steps if isinstance(step, StartVm)}
    pulled = {(step.vm, step.nic) for step in steps if isinstance(step, RemoveNic)}
    plugged = {(step.vm, step.nic) for step in steps if isinstance(step, AddNic)}
    lines = []
    for step in steps:
        match step:
            case StopVm(name) if name in started:
                continue
            case RemoveNic(vm, nic) if (vm, nic) in plugged:
                continue
            case StartVm(name) if name in stopped:
                lines.append(f"± vm {name} restarts: {_why(stopped[name], step)}")
            case AddNic(vm, nic) if (vm, nic) in pulled:
                lines.append(f"± nic {vm}:{nic} is replaced ({step.config.model}, {step.config.transport})")
            case _:
                lines.append(describe(step))
    return tuple(lines)


def _why(before: StopVm, now: StartVm) -> str:
    was, is_ = before.vm.model_dump(), now.vm.model_dump()
    words = [f"{key} {_short(was[key])} → {_short(is_[key])}" for key in was if was[key] != is_[key]]
    if before.nics != now.nics:
        words.append("nic (this machine has no hot-plug)" if not _hot_plugs(now.vm) else "nic")
    return ", ".join(words)


def _short(value: object) -> str:
    text = "none" if value in (None, "", (), {}) else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
