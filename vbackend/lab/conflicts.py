"""What of a lab is in the way of something else in it, or cannot be served: both ends of a quarrel by name. Pure.

Not here: what the model refuses by itself (model.py), what this host lacks (check.py).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_interface
from typing import Final

from vbackend.errors import ConfigError
from vbackend.host.ruleset import Forward, IPAddress, resolve
from vbackend.lab.locate import key_text
from vbackend.lab.model import Lab, Nic, Switch, Where, end_name, is_vm_end, split_end
from vbackend.lab.names import gateway_mac, mac_octets, station_mac, tap_mac
from vbackend.lab.picture import Picture, picture
from vbackend.lab.served import guest_addresses, services_of
from vbackend.lab.steps import Service
from vbackend.ports import values
from vbackend.ports.parse import parse_port
from vbackend.ports.spec import (
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
from vbackend.services.config import Services, check

__all__ = ["conflicts"]

_ANOTHER: Final = "; give one of them another"


@dataclass(frozen=True, slots=True)
class _Claim:
    """That something has a value which only one may have."""

    value: str
    owner: str
    where: Where
    given: bool = True  # in the file, so that it can be changed there


def conflicts(lab: Lab) -> tuple[tuple[Where, str], ...]:
    """What is wrong, and where; one complaint a place."""
    now = picture(lab)
    found: dict[Where, str] = {}
    for part in (_held, _disks, _macs, _addresses, _services, _forwards):
        for where, what in part(lab, now):
            if not any(place[: len(where)] == where for place in found):  # inside it more has been said
                found[where] = what
    return tuple(found.items())


def _twice(claims: Iterable[_Claim], why: str) -> Iterator[tuple[Where, str]]:
    first: dict[str, _Claim] = {}
    for claim in sorted(claims, key=lambda claim: claim.given):
        other = first.setdefault(claim.value, claim)
        if other.owner != claim.owner:
            yield claim.where, f"{claim.value} belongs to {other.owner} too ({key_text(other.where)}), {why}"


def _networks(lab: Lab) -> dict[Where, str]:
    """Where each segment is in the file, and on which network: cables to switches make one of all that they join."""

    def around(switch: str) -> str:
        joined = lab.joined(switch)
        return (
            f"on joined switches {', '.join(joined)}" if len(joined) > 1 else f"on the same switch {switch}"
        )

    found: dict[Where, str] = {("switch", name): around(name) for name in lab.switch}
    for number, cable in enumerate(lab.cable):
        switches = lab.switches_of(cable)
        found["cable", number] = around(switches[0]) if switches else f"on the same cable {cable.title}"
    return found


# MAC addresses


def _macs(lab: Lab, now: Picture) -> Iterator[tuple[Where, str]]:
    networks = _networks(lab)
    claims: dict[str, list[_Claim]] = {network: [] for network in networks.values()}
    cards: dict[str, dict[str, _Claim]] = {name: {} for name in lab.vm}
    for where, end in lab.placed():
        if lab.is_switch_end(end):
            continue
        here = claims[networks[where[:2]]]
        if is_vm_end(end):
            vm, nic = split_end(end)
            cards[vm][nic] = _card_mac(now, vm, nic, lab.vm[vm].nic.get(nic), where)
            here.append(cards[vm][nic])
        elif (claim := _port_mac(lab.name, end, where)) is not None:
            here.append(claim)
    for name, switch in lab.switch.items():
        here = claims[networks["switch", name]]
        if switch.nat is not None:
            where = ("switch", name, "nat")
            here.append(_Claim(gateway_mac(lab.name, name), f"the NAT of {name}", where, given=False))
        if switch.addr:
            where = ("switch", name, "addr")
            here.append(_Claim(station_mac(lab.name, name), f"the services of {name}", where, given=False))
    for network, claimed in claims.items():
        yield from _twice(claimed, network + _ANOTHER)
    for name, guest in lab.vm.items():
        for nic, told in guest.nic.items():
            cards[name].setdefault(nic, _card_mac(now, name, nic, told, ("vm", name, "nic", nic)))
        if guest.has_agent:
            why = f"and the guest's agent tells its NICs apart by them{_ANOTHER}"
            yield from _twice(cards[name].values(), why)


def _card_mac(now: Picture, vm: str, nic: str, told: Nic | None, where: Where) -> _Claim:
    mac, owner = str(now.vms[vm].nics[nic].mac), f"{vm}:{nic}"
    if told is not None and told.mac is not None:
        return _Claim(mac, owner, ("vm", vm, "nic", nic, "mac"))
    return _Claim(mac, owner, where, given=False)


def _port_mac(lab: str, end: str, where: Where) -> _Claim | None:
    """What a PORT lets through, or a tap is made with."""
    spec = parse_port(end)
    if spec.options.mac is not None:
        return _Claim(spec.options.mac.hex(":"), end_name(end), where)
    if isinstance(spec, TapSpec):
        return _Claim(tap_mac(lab, spec.ifname), end_name(end), where, given=False)
    return None


# IP addresses


def _addresses(lab: Lab, now: Picture) -> Iterator[tuple[Where, str]]:
    networks = _networks(lab)
    claims: dict[str, list[_Claim]] = {network: [] for network in networks.values()}
    for name, switch in lab.switch.items():
        claims[networks["switch", name]] += _switch_addresses(name, switch)
    for where, end in lab.placed():
        if not lab.is_switch_end(end):
            claims[networks[where[:2]]] += _end_addresses(now, end, where)
    for name, switch in lab.switch.items():
        claims[networks["switch", name]] += _reservations(lab, now, name, switch)
    for network, claimed in claims.items():
        yield from _twice(claimed, network + _ANOTHER)


def _ip(text: str) -> str:
    return str(ip_interface(text).ip)


def _switch_addresses(name: str, switch: Switch) -> Iterator[_Claim]:
    for place, text in enumerate(switch.addr):
        yield _Claim(_ip(text), f"the services of {name}", ("switch", name, "addr", place))
    for place, text in enumerate(switch.nat.addr if switch.nat is not None else ()):
        yield _Claim(_ip(text), f"the NAT of {name}", ("switch", name, "nat", "addr", place))


def _end_addresses(now: Picture, end: str, where: Where) -> Iterator[_Claim]:
    if is_vm_end(end):
        vm, nic = split_end(end)
        for place, text in enumerate(now.vms[vm].nics[nic].addr):
            yield _Claim(_ip(text), end, ("vm", vm, "nic", nic, "addr", place))
        return
    spec = parse_port(end)
    if isinstance(spec, TapSpec | TunSpec | UnitSpec):
        for address in spec.addresses:
            yield _Claim(str(address.ip), end_name(end), where)


def _reservations(lab: Lab, now: Picture, name: str, switch: Switch) -> Iterator[_Claim]:
    """Whose reserved address each is; a card may have its own in the file, too."""
    here = lab.cards(name)
    owners = {_card(now, end).mac: end for end in here}
    for host, address in (switch.dhcp.hosts if switch.dhcp is not None else {}).items():
        vm, colon, _ = host.partition(":")
        if vm in now.vms:
            owner = host if colon else next(end for end in here if split_end(end)[0] == vm)
        else:
            mac = values.mac_address("mac", host).hex(":")
            owner = owners.get(mac, mac)
        yield _Claim(address, owner, ("switch", name, "dhcp", "hosts", host))


def _card(now: Picture, end: str) -> Nic:
    vm, nic = split_end(end)
    return now.vms[vm].nics[nic]


# Services


def _services(lab: Lab, now: Picture) -> Iterator[tuple[Where, str]]:
    """What services/ refuses."""
    for name, service in now.services.items():
        if not service.switch.addr:
            continue
        wanted = services_of(service, mac_octets(gateway_mac(lab.name, name)))
        for key, part in (
            ("addr", Services()),
            ("dhcp", Services(dhcp4=wanted.dhcp4)),
            ("ra", Services(ra=wanted.ra)),
            ("dns", Services(dns=wanted.dns)),
        ):
            try:
                check(part, service.switch.addresses, name)
            except ConfigError as error:
                yield ("switch", name, key), str(error).removeprefix(f"{name}: ").removeprefix(f"{key}: ")
                if key == "addr":
                    break  # it would be said of each of them


def _forwards(lab: Lab, now: Picture) -> Iterator[tuple[Where, str]]:
    """Those that lead nowhere, or begin where another does. All NATs of a lab are in one namespace."""
    first: dict[object, tuple[Where, Forward]] = {}
    for name, service in now.services.items():
        nat = lab.switch[name].nat
        for place, forward in enumerate(nat.config.forwards if nat is not None else ()):
            where = ("switch", name, "nat", "forward", place)
            try:
                targets = resolve(forward, partial(_guest_addresses, now, service))
            except ConfigError as error:
                yield where, str(error)
                continue
            known, served = targets, nat.config.versions if nat is not None else ()
            targets = tuple(target for target in known if target.version in served)
            if not targets:
                family = f"IPv{known[0].version}"
                yield (
                    where,
                    f"{forward.host} has an {family} address, and the NAT none; give it one in nat.addr",
                )
                continue
            everywhere = forward.listen is None or forward.listen.is_unspecified
            for target in targets:
                key = (forward.protocol, forward.port, target.version, None if everywhere else forward.listen)
                there, other = first.setdefault(key, (where, forward))
                if there != where:
                    yield (
                        where,
                        f"{forward.protocol} port {forward.port} of the host leads to {other.host}:{other.host_port} "
                        f"already ({key_text(there)}); give another port",
                    )


def _guest_addresses(now: Picture, service: Service, vm: str) -> list[IPAddress]:
    return guest_addresses(service, now.vms[vm].nics.values() if vm in now.vms else ())


# What is of the host


def _held(lab: Lab, _now: Picture) -> Iterator[tuple[Where, str]]:
    claims = []
    for where, end in lab.placed():
        if is_vm_end(end):
            continue
        spec = parse_port(end)
        if (what := _opened(spec)) is not None:
            claims.append(_Claim(what, end_name(end), where))
        if isinstance(spec, TapSpec) and spec.bridge is not None:  # which others may be on, too
            claims.append(_Claim(_device(spec.bridge, spec.netns), f"bridge {spec.bridge}", where))
    yield from _twice(claims, "and is for one end only; name another")


def _opened(spec: PortSpec) -> str | None:
    """The thing of the host that a port has for itself."""
    match spec:
        case TapSpec() | TunSpec():
            return _device(spec.ifname, spec.netns)
        case StreamSpec(dial=False) | VhostUserSpec(dial=False) | UnitSpec(address=UnixAddress()):
            return None if spec.address is None else _place(spec.address, "TCP")
        case DgramUnixSpec() | DgramUdpSpec():
            return _place(spec.local, "UDP")
        case VdeSpec():
            return f"directory {spec.directory}"
        case _:
            return None


def _device(name: str, netns: str | None) -> str:
    return f"device {name}" + ("" if netns is None else f" of namespace {netns}")


def _place(address: UnixAddress | TcpAddress, protocol: str) -> str | None:
    """None: the host chooses."""
    if isinstance(address, UnixAddress):
        return f"socket {address.path}"
    return None if address.port == 0 else f"{protocol} port {address.port} of {address.host}"


def _disks(lab: Lab, _now: Picture) -> Iterator[tuple[Where, str]]:
    """QEMU locks what it writes (block/file-posix.c)."""
    written = {vm.disk for vm in lab.vm.values() if vm.persistent}
    claims = [
        _Claim(f"disk {vm.disk}", name, ("vm", name, "disk"))
        for name, vm in lab.vm.items()
        if vm.disk is not None and vm.disk in written
    ]
    yield from _twice(claims, "and a persistent disk is for one VM; give each its own")
