"""The single values of a lab file: names, ends, addresses, quantities. Pure.

Each is text that pydantic checks by a function here, which raises `ValueError` with one line: what is wrong and what
would be right.
"""

import re
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, ip_address, ip_interface
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, ValidationError, WithJsonSchema

from vbackend.errors import ConfigError
from vbackend.host.ruleset import parse_forward
from vbackend.ports import rates, values
from vbackend.ports.impairment import KEYS, check_word, read_duration
from vbackend.ports.names import derived_name
from vbackend.ports.parse import PORT_KINDS, parse_port

__all__ = [
    "QUANTITIES",
    "Cidr",
    "End",
    "Forward",
    "Ip",
    "Ip4",
    "Mac",
    "Memory",
    "Name",
    "NicName",
    "OnOff",
    "Quantity",
    "Time",
    "end_name",
    "first_problem",
    "is_vm_end",
    "seconds",
    "split_end",
]

_NAME_MAX: Final = 20
_VM_END: Final = re.compile(r"([a-z][a-z0-9-]*):([a-z][a-z0-9._-]*)")


def first_problem(error: ValidationError) -> str:
    """What pydantic found first, in one line: where, and what."""
    first = error.errors(include_url=False)[0]
    where, what = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
    return f"{where}: {what}" if where else what


def is_vm_end(end: str) -> bool:
    """Whether an end is a NIC of a VM, or looks like one as those on a switch do; not a PORT."""
    found = _VM_END.fullmatch(end)
    return found is not None and found[1] not in PORT_KINDS


def end_name(end: str) -> str:
    """What an end is called: VM:NIC, else the PORT's name."""
    if is_vm_end(end):
        return end
    spec = parse_port(end)
    return spec.options.name or derived_name(spec)


def split_end(end: str) -> tuple[str, str]:
    """VM and NIC of a VM's end; of a switch's its switch and name."""
    vm, _, nic = end.partition(":")
    return vm, nic


def _name(text: str) -> str:
    if not re.fullmatch(rf"[a-z][a-z0-9-]{{0,{_NAME_MAX - 1}}}", text):
        raise ValueError(f"{text!r} is no name; use up to {_NAME_MAX} of a-z, 0-9 and '-', a letter first")
    if text in PORT_KINDS:
        raise ValueError(f"{text!r} is a kind of PORT; take another name")
    return text


def _nic_name(text: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9._-]{0,14}", text):
        raise ValueError(f"{text!r} is no name of a NIC; use up to 15 of a-z, 0-9, '.', '_' and '-'")
    return text


def _end(text: str) -> str:
    if is_vm_end(text):
        return text
    try:
        parse_port(text)
    except ConfigError as error:
        raise ValueError(f"{text!r} is neither VM:NIC, SWITCH:NAME nor a PORT: {error}") from None
    return text


def _mac(text: str) -> str:
    return values.mac_address("mac", text).hex(":")


def _memory(text: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]{0,6}[MG]", text):
        raise ValueError(f"{text!r} is no size of memory; write for example 256M or 2G")
    return text


def _text(value: object) -> object:
    """Quantities may be written as numbers: `queue = 100`, `loss = 0.01`."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _on_off(value: object) -> object:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def _seconds(text: str) -> str:
    seconds(text)
    return text


def seconds(text: str) -> int:
    """Of a lease or a lifetime: "90" and "90s", "30m", "1h", "2d". ValueError: anything else."""
    found = re.fullmatch(r"([0-9]{1,9})(s|m|min|h|d)?", text, re.ASCII)
    if found is None:
        raise ValueError(f"{text!r} is no time of whole seconds; write for example 90s, 30m, 1h or 2d")
    return int(found[1]) * {"m": 60, "min": 60, "h": 3600, "d": 86_400}.get(found[2] or "", 1)


def _cidr(text: str) -> str:
    ip_interface(text)
    if "/" not in text:
        raise ValueError(f"{text!r} has no prefix length; write for example {text}/24")
    return text


def _forward(text: str) -> str:
    parse_forward(text)
    return text


def _ip(text: str) -> str:
    return str(ip_address(text))


def _ip4(text: str) -> str:
    try:
        return str(IPv4Address(text))
    except ValueError:
        raise ValueError(f"{text!r} is no IPv4 address; write for example 10.0.0.9") from None


Name = Annotated[str, AfterValidator(_name)]
NicName = Annotated[str, AfterValidator(_nic_name)]
End = Annotated[str, AfterValidator(_end)]
Mac = Annotated[str, AfterValidator(_mac)]
Cidr = Annotated[str, AfterValidator(_cidr)]
Forward = Annotated[str, AfterValidator(_forward)]
Ip = Annotated[str, AfterValidator(_ip)]
Ip4 = Annotated[str, AfterValidator(_ip4)]
Quantity = Annotated[str, BeforeValidator(_text), WithJsonSchema({"type": ["string", "number"]})]
Time = Annotated[Quantity, AfterValidator(_seconds)]
OnOff = Annotated[str, BeforeValidator(_on_off), WithJsonSchema({"type": ["boolean", "string"]})]
Memory = Annotated[str, AfterValidator(_memory)]


def _word(key: str) -> Callable[[str], object]:
    return lambda text: check_word(key, text)


QUANTITIES: Final[Mapping[str, Callable[[str], object]]] = {  # of a cable, by key: raises ValueError
    **{key: _word(key) for key in KEYS},
    "rate": lambda text: rates.read_rate("rate", text),
    "burst": lambda text: rates.read_burst("burst", text),
    "queue": lambda text: values.number(1, 65_536)("queue", text),
    "carrier": lambda text: read_duration("carrier", text),
}
