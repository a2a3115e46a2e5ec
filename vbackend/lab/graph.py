"""What a lab looks like as a drawing: nodes, lines and their words. And as text for Mermaid; svg.py paints it.

VMs are boxes, switches rounded, the host's ends ellipses. A line's words are the link's name, what is impaired in
which direction, and what goes over it when `rates` are given. Pure, and the same for the same lab.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from vbackend.lab.model import Cable, Lab, Switch, Vm, end_name, is_vm_end, split_end

__all__ = ["Drawing", "Line", "Node", "Rates", "drawing", "mermaid", "shown_rate"]

Rates = Mapping[str, tuple[float, float]]
"""Of links by title, bits/s: from the first end to the second and back; of a switch's end, to the switch and back."""

_SHAPES: Final = {"vm": ("[", "]"), "switch": ("(", ")"), "port": ("([", "])")}
_SERVICES: Final = ("dhcp", "ra", "dns", "nat")


@dataclass(frozen=True, slots=True)
class Node:
    kind: Literal["vm", "switch", "port"]
    words: tuple[str, ...]  # lines of text, the name first


@dataclass(frozen=True, slots=True)
class Line:
    """A link between two nodes, which are numbers in `Drawing.nodes`."""

    ends: tuple[int, int]
    nics: tuple[str, str]  # what it is called at its ends; "" for nothing
    words: tuple[str, ...]
    up: bool = True


@dataclass(frozen=True, slots=True)
class Drawing:
    title: str
    nodes: tuple[Node, ...]
    lines: tuple[Line, ...]


def drawing(lab: Lab, rates: Rates | None = None) -> Drawing:
    """The drawing of a lab. `rates`: what goes over its links now; links that are not in it have none shown."""
    found = rates or {}
    nodes = [Node("vm", _vm_words(name, vm)) for name, vm in lab.vm.items()]
    nodes += [Node("switch", _switch_words(name, switch)) for name, switch in lab.switch.items()]
    numbers = {name: number for number, name in enumerate(lab.vm)}
    switches = {name: len(numbers) + number for number, name in enumerate(lab.switch)}

    def attach(end: str) -> tuple[int, str]:
        if is_vm_end(end):
            owner, nic = split_end(end)
            return (switches if lab.is_switch_end(end) else numbers)[owner], nic
        nodes.append(Node("port", _port_words(end)))
        return len(nodes) - 1, ""

    lines = []
    for name, switch in lab.switch.items():
        for end in switch.ports:
            node, nic = attach(end)
            words = _rate_words(found.get(f"{name}/{end_name(end)}"), _owner(end), name)
            lines.append(Line((node, switches[name]), (nic, ""), words))
    for cable in lab.cable:
        (first, first_nic), (second, second_nic) = map(attach, cable.ends)
        words = _cable_words(cable) + _rate_words(found.get(cable.title), *_sides(cable))
        lines.append(Line((first, second), (first_nic, second_nic), words, cable.up))
    return Drawing(lab.name, tuple(nodes), tuple(lines))


def mermaid(what: Drawing) -> str:
    """Mermaid's flowchart text. A line that is down is dashed and red."""
    text = ["---", f"title: {what.title}", "---", "flowchart LR"]
    for number, node in enumerate(what.nodes):
        before, behind = _SHAPES[node.kind]
        text.append(f'  n{number}{before}"{_quoted(node.words)}"{behind}')
    for line in what.lines:
        nics = " - ".join(filter(None, line.nics))
        words = (nics, *line.words) if nics else line.words
        stroke = "---" if line.up else "-.-"
        label = f'|"{_quoted(words)}"|' if words else ""
        text.append(f"  n{line.ends[0]} {stroke}{label} n{line.ends[1]}")
    down = ",".join(str(number) for number, line in enumerate(what.lines) if not line.up)
    if down:
        text.append(f"  linkStyle {down} stroke:#c62828,stroke-dasharray:6 4")
    return "\n".join(text) + "\n"


def shown_rate(bits: float) -> str:
    """1234567 is "1.2 Mbit/s"."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if bits >= size:
            return f"{bits / size:.1f} {unit}bit/s"
    return f"{bits:.0f} bit/s"


def _quoted(words: tuple[str, ...]) -> str:
    """Mermaid's entity codes are decimal and begin with '#'; lines are parted by <br/>."""
    special = {ord(letter): f"#{ord(letter)};" for letter in '"#&<>`\\\n\r'}
    return "<br/>".join(word.translate(special) for word in words)


def _vm_words(name: str, vm: Vm) -> tuple[str, ...]:
    booted = vm.image or vm.kernel or vm.disk or ""
    return name, booted.rpartition("/")[2].removesuffix(".toml")


def _switch_words(name: str, switch: Switch) -> tuple[str, ...]:
    services = ", ".join(word for word in _SERVICES if getattr(switch, word) is not None)
    return tuple(word for word in (name, *switch.addr, services) if word)


def _port_words(end: str) -> tuple[str, ...]:
    place, _, rest = end.partition(",")
    addresses = tuple(word.removeprefix("addr=") for word in rest.split(",") if word.startswith("addr="))
    return (place, *addresses)


def _cable_words(cable: Cable) -> tuple[str, ...]:
    there, back = cable.directions()
    one, two = _sides(cable)
    words = [] if cable.name is None else [cable.name]
    if not cable.up:
        words.append("down")
    if there == back:
        words += [_impaired(there)] if there else []
    else:
        words += [f"{one} → {two}: {_impaired(there)}"] if there else []
        words += [f"{two} → {one}: {_impaired(back)}"] if back else []
    return tuple(words)


def _owner(end: str) -> str:
    return split_end(end)[0] if is_vm_end(end) else end_name(end)


def _sides(cable: Cable) -> tuple[str, str]:
    """What to call the ends: the VMs, unless it is one and the same."""
    one, two = map(_owner, cable.ends)
    return (one, two) if one != two else (end_name(cable.ends[0]), end_name(cable.ends[1]))


def _impaired(keys: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in keys.items())


def _rate_words(rates: tuple[float, float] | None, one: str, two: str) -> tuple[str, ...]:
    if rates is None:
        return ()
    return f"{one} → {two}: {shown_rate(rates[0])}", f"{two} → {one}: {shown_rate(rates[1])}"
