"""Labs for humans: what `vbackend ps` prints. Pure. Everything fits 80 columns and reads without colour."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from vbackend.cli.render import duration, size, table
from vbackend.lab.status import LabStatus, LinkStatus, VmStatus

__all__ = ["dead_line", "lab_view"]

_STYLE = {"running": "green", "booting": "yellow", "building": "yellow", "failed": "red", "stopped": "dim"}


def lab_view(status: LabStatus, *, now: float) -> RenderableType:
    """One lab. `now`: seconds since the epoch."""
    head = f"lab {status.name}  {len(status.vms)} VMs  {len(status.links)} links  daemon {status.pid}"
    parts: list[RenderableType] = [Text(head + ("  changing" if status.changing else ""), style="bold")]
    if status.vms:
        parts.append(_vms(status.vms, now))
    if status.links:
        parts.append(_links(status.links))
    return Group(*parts)


def dead_line(name: str, guests: Sequence[str]) -> str:
    """A lab whose daemon is dead."""
    found = f"still running: {', '.join(guests)}" if guests else "no guest runs"
    return f"lab {name}  its daemon is dead; {found}; `vbackend up {name}` takes it over, `down` ends it"


def _vms(vms: Sequence[VmStatus], now: float) -> RenderableType:
    shown = table("", "vm", "state", "up", "pid", "nics", right=("pid",))
    for vm in vms:
        state = Text(vm.state, style=_STYLE[vm.state]).append(f" {vm.reason}" if vm.reason else "")
        nics = "\n".join(f"{nic.name} {nic.mac} {nic.link or '-'}" for nic in vm.nics)
        up = duration(now - vm.since) if vm.pid else "-"
        shown.add_row(vm.name, state, up, str(vm.pid or "-"), nics)
    return shown


def _links(links: Sequence[LinkStatus]) -> RenderableType:
    shown = table(
        "",
        "link",
        "state",
        "to",
        "frames",
        "bytes",
        "dropped",
        "impaired",
        right=("frames", "bytes", "dropped"),
    )
    for link in links:
        for index, end in enumerate(link.ends):
            state = "down" if not link.up else "up" if end.connected else "no peer"
            told = " ".join(f"{key}={value}" for key, value in end.impair.items())
            shown.add_row(
                link.title if index == 0 else "",
                state,
                end.name,
                str(end.frames),
                size(end.bytes),
                str(end.dropped),
                told,
            )
    return shown
