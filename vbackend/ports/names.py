"""Names of ports: from what a port is attached to, and unique.

Pure. Rule: a name the user gave is kept or refused; only derived names get a suffix.
"""

import re
from collections.abc import Container, Iterable, Sequence
from itertools import count
from pathlib import PurePath
from typing import assert_never

from vbackend.errors import ConfigError
from vbackend.ports.spec import (
    ChannelSpec,
    DgramMcastSpec,
    DgramUdpSpec,
    DgramUnixSpec,
    PortSpec,
    StreamSpec,
    TapSpec,
    TcpAddress,
    TunSpec,
    UnitSpec,
    UnixAddress,
    VdeSpec,
    VhostUserSpec,
)

__all__ = ["child_name", "derived_name", "inner_name", "is_inner", "names_for", "unique_name"]


def names_for(specs: Sequence[PortSpec], taken: Iterable[str]) -> list[str]:
    """A name for each of the ports, beside those that are taken. ConfigError: a name is given twice."""
    known = set(taken)
    for spec in specs:
        wanted = spec.options.name
        if wanted is not None and wanted in known:
            raise ConfigError(f"port {spec.text!r}: the name {wanted!r} is taken; give another name=")
        if wanted is not None:
            known.add(wanted)
    names = []
    for spec in specs:
        name = spec.options.name or unique_name(derived_name(spec), known)
        known.add(name)
        names.append(name)
    return names


def derived_name(spec: PortSpec) -> str:
    """A short name for a port that was given none: "a" from stream:unix:/tmp/a.sock, "tap0" from tap:tap0."""
    match spec:
        case (
            StreamSpec(address=UnixAddress(path))
            | DgramUnixSpec(local=UnixAddress(path))
            | VhostUserSpec(address=UnixAddress(path))
        ):
            return _clean(_stem(path), "unix")
        case StreamSpec(address=TcpAddress(port=port)):
            return f"tcp-{port}"
        case DgramUdpSpec():
            return f"udp-{spec.local.port}"
        case DgramMcastSpec():
            return f"mcast-{spec.port}"
        case UnitSpec():
            return _clean(_stem(spec.address.path), "unit") if spec.address is not None else "unit"
        case VhostUserSpec():
            return _clean(_stem(spec.address.path), "vhost-user")
        case VdeSpec():
            return _clean(_stem(spec.directory), "vde")
        case TapSpec() | TunSpec():
            return _clean(spec.ifname, "device")
        case ChannelSpec():
            return "channel"
        case StreamSpec() | VhostUserSpec():  # mypy does not narrow by attribute patterns
            raise AssertionError(f"no such address: {spec.address!r}")
        case _:
            assert_never(spec)


def unique_name(wanted: str, taken: Container[str]) -> str:
    """`wanted`, or the first free one of wanted-2, wanted-3, …"""
    if wanted not in taken:
        return wanted
    return next(name for name in (f"{wanted}-{number}" for number in count(2)) if name not in taken)


def child_name(parent: str, taken: Container[str]) -> str:
    """The first free one of parent.1, parent.2, …: what a peer of a `multi` port is called."""
    return next(name for name in (f"{parent}.{number}" for number in count(1)) if name not in taken)


def _stem(path: str) -> str:
    name = PurePath(path.removeprefix("@")).name
    return name.removesuffix(".sock").removesuffix(".socket")


def _clean(text: str, otherwise: str) -> str:
    """Only what a port's name may have in it (values.port_name)."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-")[:50] or otherwise


def inner_name(end: str, cable: str) -> str:
    """The port that a cable's end has on the switch it leads to. No name that a user gives has an @."""
    return f"{end}@{cable}"


def is_inner(name: str) -> bool:
    """Whether it is the name of such a port."""
    return "@" in name
