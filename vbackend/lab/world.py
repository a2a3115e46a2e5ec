"""What steps change: one backend with its segments and ports, and the VMs. The I/O shell behind apply.py.

Not here: which steps lead where (plan.py), undo (apply.py), VMs themselves (machines.py). Rule (steps.py): a method
that raises has taken its own half back.
"""

import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final

from vbackend.backend import Backend, BackendEvent
from vbackend.errors import ConfigError
from vbackend.host.outside import Outside
from vbackend.host.ruleset import IPAddress
from vbackend.host.tap import HostDevices
from vbackend.host.uplink import RESOLVER
from vbackend.lab.carriers import Carriers
from vbackend.lab.gateways import Gateways
from vbackend.lab.machines import Machines, VmNow
from vbackend.lab.model import Lab, Nic, end_name, is_vm_end, split_end
from vbackend.lab.names import mac_octets, port_socket, tap_mac
from vbackend.lab.picture import Machine, Picture, picture
from vbackend.lab.recordings import Recordings
from vbackend.lab.served import guest_addresses
from vbackend.lab.state import LabFolder
from vbackend.lab.stations import Stations
from vbackend.lab.steps import (
    AddNic,
    AddSegment,
    CableState,
    JoinEnd,
    LeaveEnd,
    RemoveNic,
    RemoveSegment,
    Service,
    SetCable,
    SetImpairment,
    StartCapture,
    StartService,
    StartVm,
    StopCapture,
    StopService,
    StopVm,
    SwitchPort,
)
from vbackend.lab.vm import port_spec
from vbackend.ports.names import inner_name
from vbackend.ports.parse import format_port, parse_port
from vbackend.ports.rates import burst_for
from vbackend.ports.spec import PortOptions, PortSpec, TapSpec

__all__ = ["LabWorld"]


class LabWorld:
    """A lab that runs. `picture`: what runs; `machines`: its VMs, with what no step says of them."""

    def __init__(
        self,
        folder: LabFolder,
        backend: Backend,
        devices: HostDevices,
        outside: Outside | None,
        on_vm: Callable[[str, VmNow], None],
    ) -> None:
        """`devices`: the backend's. `outside`: when this process is in a namespace of its own."""
        self._folder: Final = folder
        self._backend: Final = backend
        self.machines: Final = Machines(folder, on_vm, self._booted)
        self.carriers: Final = Carriers(self._tell_carrier)
        servers = None if outside is None else ((RESOLVER, 53),)
        self.stations: Final = Stations(folder, backend, servers)
        self._gateways: Final = Gateways(folder, backend, devices, outside)
        self._coming: dict[str, Machine] = {}
        self._recordings: Final = Recordings(folder, backend)
        self._cables: Final[dict[str, CableState]] = {}
        self._ends: Final[dict[str, str]] = {}  # where each end is joined
        self._insides: Final[dict[str, str]] = {}  # ports on switches behind ends of cables, by end
        backend.subscribe(self._heard)

    def expect(self, lab: Lab) -> None:
        """The lab that steps lead to: what is said of VMs that are still to come."""
        self._coming = picture(lab).vms

    async def take_over(self) -> Picture:
        """Take over what an earlier daemon left: its VMs. Ports and segments died with it."""
        await self.machines.take_over()
        return self.seen(Picture())

    def seen(self, picture: Picture) -> Picture:
        """A picture with only those VMs that really run."""
        vms = {name: now.machine for name, now in self.machines.vms.items() if now.guest is not None}
        return replace(picture, vms=vms)

    # Segments and ends

    async def add_segment(self, step: AddSegment, /) -> None:
        self._backend.add_segment(step.name, step.kind)
        self._cables[step.name] = step.state
        self.carriers.add_segment(step.name, step.kind, step.state)

    async def remove_segment(self, step: RemoveSegment, /) -> None:
        self._backend.remove_segment(step.name)
        self.carriers.remove_segment(step.name)
        del self._cables[step.name]

    async def join_end(self, step: JoinEnd, /) -> None:
        name = end_name(step.end)
        if isinstance(step.port, SwitchPort):
            await self._join_switch(step, step.port.switch)
        else:
            await self._backend.add_port(self._spec(step), segment=step.segment)
        try:
            await self._set_up(name, self._cables[step.segment].up)
        except BaseException:
            await self._remove(name)
            raise
        self._ends[name] = step.segment
        self.carriers.join(step.segment, name)
        if isinstance(step.port, SwitchPort):
            self._forget()

    async def leave_end(self, step: LeaveEnd, /) -> None:
        name = end_name(step.end)
        del self._ends[name]
        self.carriers.leave(name)
        await self._remove(name)
        if isinstance(step.port, SwitchPort):
            self._forget()

    async def _join_switch(self, step: JoinEnd, switch: str) -> None:
        """A cable's end on a switch is two ports with a pair of sockets between them: all other ends are alike."""
        name = end_name(step.end)
        inside = inner_name(name, step.segment)
        ours, theirs = socket.socketpair()
        try:
            options, text = self._spec(step).options, f"switch:{switch}"
            await self._backend.adopt("stream", ours, options, text, segment=step.segment)
        except BaseException:
            theirs.close()
            raise
        try:
            options, text = PortOptions(name=inside), f"cable:{step.segment}"
            await self._backend.adopt("stream", theirs, options, text, segment=switch)
        except BaseException:
            await self._backend.remove_port(name)
            raise
        self._insides[name] = inside

    def _ports(self, end: str) -> list[str]:
        return [end, self._insides[end]] if end in self._insides else [end]

    async def _set_up(self, end: str, up: bool) -> None:
        """A switch forgets what it has learned from a cable that is cut, as real ones do."""
        for port in self._ports(end):
            await self._backend.set_port(port, up=up)

    def _forget(self) -> None:
        """Ways between switches are others now: what they learned from each other goes, as a spanning tree has it."""
        for inside in self._insides.values():
            self._backend.unlearn(inside)

    async def _remove(self, end: str) -> None:
        for port in self._ports(end):
            await self._backend.remove_port(port)
        self._insides.pop(end, None)

    async def set_cable(self, step: SetCable, /) -> None:
        ends = [end for end, segment in self._ends.items() if segment == step.title]
        for end in ends:
            await self._set_up(end, step.state.up)
        if any(end in self._insides for end in ends):
            self._forget()
        self._cables[step.title] = step.state
        self.carriers.set_cable(step.title, step.state)
        await self.carriers.settle()

    async def set_impairment(self, step: SetImpairment, /) -> None:
        own = "stream:unix:/" if is_vm_end(step.end) else step.end  # of a VM's end all comes from the keys
        options = parse_port(_with_words(own, step.keys)).options
        await self._backend.set_port(
            end_name(step.end),
            rate=options.rate or 0,
            burst=None if options.rate is None else burst_for(options.rate, options.burst),
            queue_frames=options.queue or self._backend.queue_frames,
            impairment=options.impairment,
        )

    # VMs

    async def start_vm(self, step: StartVm, /) -> None:
        for nic, config in step.nics.items():
            if config.transport == "vhost-user" and f"{step.name}:{nic}" not in self._ends:
                raise ConfigError(
                    f"VM {step.name!r}: NIC {nic!r} is vhost-user and joined to nothing, so QEMU would wait for ever; "
                    "name it in a cable or switch"
                )
        await self.machines.start(step.name, Machine(step.vm, step.nics))

    async def stop_vm(self, step: StopVm, /) -> None:
        await self.machines.stop(step.name)

    async def add_nic(self, step: AddNic, /) -> None:
        await self.machines.plug(step.vm, step.nic, step.config)

    async def remove_nic(self, step: RemoveNic, /) -> None:
        await self.machines.unplug(step.vm, step.nic, step.config)

    # Services and captures

    async def start_service(self, step: StartService, /) -> None:
        switch = step.service.switch
        if switch.nat is not None:
            await self._gateways.start(step.switch, switch.nat.config, partial(self._addresses, step.service))
        if switch.addr:
            try:
                await self.stations.start(step.switch, step.service)
            except BaseException:
                await self._gateways.stop(step.switch)
                raise

    async def stop_service(self, step: StopService, /) -> None:
        await self.stations.stop(step.switch)
        await self._gateways.stop(step.switch)

    async def start_capture(self, step: StartCapture, /) -> None:
        await self._recordings.start(step.capture)

    async def stop_capture(self, step: StopCapture, /) -> None:
        await self._recordings.stop(step.capture.file)

    async def close(self) -> None:
        """End what is this process's: services and captures. VMs live on."""
        await self.carriers.close()
        await self.stations.close()
        await self._gateways.close()
        await self._recordings.close()
        await self.machines.leave()

    # Carrier

    def _booted(self, name: str) -> None:
        """QEMU runs, or has another card: its links are dialled at once, and told what carrier they have."""
        for nic in self.machines.now(name).machine.nics:
            if (end := f"{name}:{nic}") in self._ends:
                self._backend.dial_now(end)
        self.tell_carriers(name)

    def tell_carriers(self, vm: str) -> None:
        """Tell all cards of a VM what carrier they have: they are new, or have forgotten."""
        for nic in self.machines.now(vm).machine.nics:
            self.carriers.again(f"{vm}:{nic}")

    def _heard(self, event: BackendEvent) -> None:
        if event.name in ("PORT_CONNECTED", "PORT_DISCONNECTED"):
            self.carriers.connected(str(event.data["port"]), event.name == "PORT_CONNECTED")

    async def _tell_carrier(self, end: str, up: bool) -> None:
        if not is_vm_end(end):
            if end in self._ends:
                self._backend.set_carrier(end, up)
            return
        vm, nic = split_end(end)
        now = self.machines.vms.get(vm)
        if now is not None and now.guest is not None and nic in now.machine.nics:
            await now.guest.set_link(nic, up)

    def _nics(self, vm: str) -> dict[str, Nic]:
        """A VM's cards, with their addresses: those to come, and those it still has, which an undo may need."""
        found: dict[str, Nic] = {}
        if vm in self.machines.vms:
            found |= self.machines.vms[vm].machine.nics
        if vm in self._coming:
            found |= self._coming[vm].nics
        return found

    def _addresses(self, service: Service, vm: str) -> list[IPAddress]:
        return guest_addresses(service, self._nics(vm).values())

    def _spec(self, step: JoinEnd) -> PortSpec:
        spec: PortSpec
        if step.port is None:
            spec = parse_port(step.end)
        elif isinstance(step.port, SwitchPort):
            spec = parse_port("stream:unix:/")  # for its options
        else:
            spec = port_spec(port_socket(self._folder.root, step.end), step.port)
        if step.impair:
            spec = parse_port(_with_words(format_port(spec), step.impair))
        if isinstance(spec, TapSpec):  # guests remember the address when vbackend is killed and comes back
            mac = mac_octets(tap_mac(self._folder.name, spec.ifname))
            spec = replace(spec, made_mac=mac)
        return replace(spec, options=replace(spec.options, name=end_name(step.end)))


def _with_words(port: str, keys: Mapping[str, str]) -> str:
    """A PORT with more keys."""
    return ",".join([port, *(f"{key}={value.replace(',', ',,')}" for key, value in keys.items())])
