"""Labs out of few names, so that two of them have much in common and differ in all ways; and a world that fails."""

import asyncio
from collections.abc import Collection
from typing import Any

from hypothesis import strategies as st

from vbackend.errors import HostError
from vbackend.lab.model import Cable, Capture, Dhcp, Dns, Impair, Lab, Nat, Nic, Switch, Vm, end_name
from vbackend.lab.picture import Picture, after
from vbackend.lab.steps import Step

__all__ = ["FakeWorld", "labs"]

VMS = ("r1", "r2", "h1")
NICS = ("eth0", "eth1")
SWITCHES = ("lan", "wan", "core")
PORTS = ("tap:lab0", "tap:lab0,addr=10.9.0.1/24", "stream:unix:/tmp/x.sock", "tun:t0")

_IMPAIR: dict[str, st.SearchStrategy[Any]] = {
    "delay": st.sampled_from((None, "1ms", "50ms")),
    "loss": st.sampled_from((None, "1%", 0.5)),
}


@st.composite
def _vms(draw: st.DrawFn, name: str, joined: Collection[str], keeps: bool) -> Vm:
    """`keeps`: it has the one disk that is persistent, if it has a disk."""
    nics = {}
    for nic in draw(st.lists(st.sampled_from(NICS), unique=True)):
        ways = ("stream", "vhost-user") if f"{name}:{nic}" in joined else ("stream",)
        nics[nic] = Nic(
            transport=draw(st.sampled_from(ways)),
            mtu=draw(st.sampled_from((None, 1400))),
            addr=draw(st.sampled_from(((), (f"10.0.0.{50 + 10 * VMS.index(name) + NICS.index(nic)}/24",)))),
        )
    if draw(st.booleans()):
        return Vm(
            disk="/kept.qcow2" if keeps else "/disk.qcow2",
            persistent=keeps,
            machine=draw(st.sampled_from(("pc", "q35"))),
            nic=nics,
        )
    return Vm(image="small", memory=draw(st.sampled_from((None, "256M"))), nic=nics)


@st.composite
def _switches(draw: st.DrawFn, name: str, ends: tuple[str, ...], vms: Collection[str]) -> Switch:
    net = SWITCHES.index(name)
    addresses = (f"10.0.{net}.1/24", f"fd00:{net}::1/64")
    addr = addresses[: draw(st.integers(0, 2))]
    here = [end for end in ends if end.partition(":")[0] in vms]
    dhcp, dns, reserves, nat = (draw(st.booleans()) for _ in range(4))
    hosts = {here[0]: f"10.0.{net}.9"} if here and reserves else {}
    return Switch(
        ports=ends,
        addr=addr,
        dhcp=Dhcp(range=f"10.0.{net}.10-10.0.{net}.20", hosts=hosts) if addr and dhcp else None,
        dns=Dns() if addr and dns else None,
        nat=Nat(addr=(f"10.0.{net}.254/24",)) if nat else None,
    )


@st.composite
def labs(draw: st.DrawFn) -> Lab:
    """Any lab of a few VMs, all of the same name."""
    names = draw(st.lists(st.sampled_from(VMS), unique=True))
    known = [f"{name}:{nic}" for name in names for nic in NICS] + list(PORTS)
    free = list(draw(st.lists(st.sampled_from(known), unique_by=end_name)))
    switches: dict[str, tuple[str, ...]] = {}
    for name in draw(st.lists(st.sampled_from(SWITCHES), unique=True)):
        count = draw(st.integers(0, 3))
        switches[name], free = tuple(free[:count]), free[count:]
    free += [f"{name}:up" for name in switches if draw(st.booleans())]  # one a switch, so there is no loop
    cables = []
    titles = [title for title in ("core", "edge", "side") if title not in switches]
    while len(free) >= 2 and titles:
        (one, two), free = free[:2], free[2:]
        cables.append(
            Cable(
                ends=(one, two),
                name=titles.pop() if draw(st.booleans()) else None,
                up=draw(st.booleans()),
                carrier=draw(st.sampled_from(("0", "300ms", False))),
                delay=draw(_IMPAIR["delay"]),
                back=Impair(loss=draw(_IMPAIR["loss"])),
            )
        )
    joined = {end for ends in switches.values() for end in ends} | {
        end for cable in cables for end in cable.ends
    }
    keeper = draw(st.sampled_from(VMS))
    lab = Lab(
        name="lab",
        vm={name: draw(_vms(name, joined, name == keeper)) for name in names},
        switch={name: draw(_switches(name, ends, names)) for name, ends in switches.items()},
        cable=tuple(cables),
    )
    files = draw(st.lists(st.sampled_from(("/a.pcapng", "/b.pcapng")), unique=True))
    links = st.lists(st.sampled_from(lab.links()), unique=True) if lab.links() else st.just([])
    captures = tuple(Capture(file=file, links=tuple(draw(links))) for file in files)
    return Lab.model_validate({**lab.model_dump(), "capture": captures})


class FakeWorld:
    """A world that is only a picture. `failing`: numbers of calls that fail, counted from 0 over its life, and with
    what `error`; None: one that says which call it was."""

    def __init__(
        self, now: Picture, failing: Collection[int] = (), error: BaseException | None = None
    ) -> None:
        self.now = now
        self.failing = failing
        self.error = error
        self.calls: list[Step] = []
        self.busy = 0
        self.most_busy = 0

    async def _do(self, step: Step) -> None:
        number = len(self.calls)
        self.calls.append(step)
        self.busy += 1
        self.most_busy = max(self.busy, self.most_busy)
        try:
            await asyncio.sleep(0)
            if number in self.failing:
                raise self.error or HostError(f"call {number} was to fail")
            await asyncio.sleep(0)
            self.now = after(self.now, step)
        finally:
            self.busy -= 1

    add_segment = remove_segment = join_end = leave_end = start_vm = stop_vm = add_nic = remove_nic = _do
    set_impairment = set_cable = start_service = stop_service = start_capture = stop_capture = _do
