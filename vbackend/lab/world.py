"""What steps change: one backend with its segments and ports, and the VMs. The I/O shell behind apply.py.

Not here: which steps lead where (plan.py), undo (apply.py), VMs themselves (machines.py). Rule (steps.py): a method
that raises has taken its own half back.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from vbackend.backend import Backend
from vbackend.errors import ConfigError
from vbackend.lab.guest import Guest
from vbackend.lab.machines import Machines, VmNow
from vbackend.lab.model import end_name, is_vm_end, split_end
from vbackend.lab.names import mac_address, port_socket
from vbackend.lab.picture import Machine, Picture
from vbackend.lab.state import LabFolder
from vbackend.lab.steps import (
    AddNic,
    AddSegment,
    CableState,
    JoinEnd,
    LeaveEnd,
    RemoveNic,
    RemoveSegment,
    SetCable,
    SetImpairment,
    StartCapture,
    StartService,
    StartVm,
    StopCapture,
    StopService,
    StopVm,
)
from vbackend.lab.vm import port_spec
from vbackend.ports.parse import format_port, parse_port
from vbackend.ports.rates import read_burst, read_rate
from vbackend.ports.spec import PortSpec, TapSpec

__all__ = ["LabWorld"]


class LabWorld:
    """A lab that runs. `picture`: what runs; `machines`: its VMs, with what no step says of them."""

    def __init__(self, folder: LabFolder, backend: Backend, on_vm: Callable[[str, VmNow], None]) -> None:
        self._folder: Final = folder
        self._backend: Final = backend
        self.machines: Final = Machines(folder, on_vm, self._booted)
        self._cables: Final[dict[str, CableState]] = {}
        self._ends: Final[dict[str, str]] = {}  # where each end is joined

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

    async def remove_segment(self, step: RemoveSegment, /) -> None:
        self._backend.remove_segment(step.name)
        del self._cables[step.name]

    async def join_end(self, step: JoinEnd, /) -> None:
        name = end_name(step.end)
        await self._backend.add_port(self._spec(step), segment=step.segment)
        self._ends[name] = step.segment
        try:
            if not self._cables[step.segment].up:
                await self._set_end(name, self._cables[step.segment])
        except BaseException:
            del self._ends[name]
            await self._backend.remove_port(name)
            raise

    async def leave_end(self, step: LeaveEnd, /) -> None:
        name = end_name(step.end)
        await self._backend.remove_port(name)
        del self._ends[name]
        if not self._cables[step.segment].up:
            await self._carrier(name, up=True)  # the next link's carrier is that link's business

    async def set_cable(self, step: SetCable, /) -> None:
        ends = [end for end, segment in self._ends.items() if segment == step.title]
        self._cables[step.title] = step.state
        try:
            for end in ends:
                await self._set_end(end, step.state)
        except BaseException:
            self._cables[step.title] = step.before
            for end in ends:
                await self._set_end(end, step.before)
            raise

    async def set_impairment(self, step: SetImpairment, /) -> None:
        name = end_name(step.end)
        rate, burst = step.keys.get("rate"), step.keys.get("burst")
        queue = step.keys.get("queue")
        await self._backend.set_port(
            name,
            rate=0 if rate is None else read_rate("rate", rate),
            burst=None if burst is None else read_burst("burst", burst),
            queue_frames=None if queue is None else int(queue),
            impairment={
                "impair": "off",
                **{key: word for key, word in step.keys.items() if key not in ("rate", "burst", "queue")},
            },
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
        raise ConfigError(f"switch {step.switch!r}: there are no services yet")

    async def stop_service(self, step: StopService, /) -> None:
        raise ConfigError(f"switch {step.switch!r}: there are no services yet")

    async def start_capture(self, step: StartCapture, /) -> None:
        raise ConfigError(f"capture {step.capture.file!r}: there are no captures yet")

    async def stop_capture(self, step: StopCapture, /) -> None:
        raise ConfigError(f"capture {step.capture.file!r}: there are no captures yet")

    # Carrier

    async def _booted(self, name: str, guest: Guest) -> None:
        """QEMU runs, or has another card: its links are dialled at once and have the carrier of their cables."""
        for end, segment in self._ends.items():
            if is_vm_end(end) and split_end(end)[0] == name:
                self._backend.dial_now(end)
                state = self._cables[segment]
                if not state.up and state.carrier is not False:
                    await guest.set_link(split_end(end)[1], False)

    async def _set_end(self, end: str, state: CableState) -> None:
        await self._backend.set_port(end, up=state.up)
        await self._carrier(end, up=state.up or state.carrier is False)

    async def _carrier(self, end: str, *, up: bool) -> None:
        """What the end's guest sees of its link."""
        if not is_vm_end(end):
            return
        vm, nic = split_end(end)
        now = self.machines.vms.get(vm)
        if now is not None and now.guest is not None and nic in now.machine.nics:
            await now.guest.set_link(nic, up)

    def _spec(self, step: JoinEnd) -> PortSpec:
        spec: PortSpec
        if step.port is None:
            spec = parse_port(step.end)
        else:
            spec = port_spec(port_socket(self._folder.root, step.end), step.port)
        if step.impair:
            spec = parse_port(",".join([format_port(spec), *map("=".join, step.impair.items())]))
        if isinstance(spec, TapSpec):  # guests remember the address when vbackend is killed and comes back
            mac = bytes.fromhex(mac_address(self._folder.name, "tap", spec.ifname).replace(":", ""))
            spec = replace(spec, made_mac=mac)
        return replace(spec, options=replace(spec.options, name=end_name(step.end)))
