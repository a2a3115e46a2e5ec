"""What a lab is: VMs, switches, cables, services and captures, as its file says. Pure data, checked by pydantic.

    [vm.r1]                        a guest; its NICs are those that cables and switches name, and those in [vm.r1.nic]
    [switch.lan]                   joins many ends and learns
    [[cable]]                      joins two ends, every frame untouched, impaired as told
    [[capture]]                    a file that links are recorded to

An **end** is `VM:NIC`, of a cable also `SWITCH:NAME`, or a PORT as on the command line. A **link** is a cable, or one
end on a switch.
Not here: single values (words.py), TOML and line numbers (load.py), what is derived from names (names.py), what runs
(plan.py, apply.py).
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_interface
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from vbackend.host.ruleset import NatConfig, parse_forward
from vbackend.lab.words import (
    QUANTITIES,
    Cidr,
    End,
    Forward,
    Ip,
    Ip4,
    Mac,
    Memory,
    Name,
    NicName,
    OnOff,
    Quantity,
    Time,
    end_name,
    is_vm_end,
    split_end,
)
from vbackend.ports import values
from vbackend.ports.impairment import KEYS, NO_IMPAIRMENT
from vbackend.ports.parse import parse_port
from vbackend.ports.spec import Address, PortSpec

__all__ = [
    "Cable",
    "Capture",
    "Dhcp",
    "Dns",
    "Impair",
    "Lab",
    "Nat",
    "Nic",
    "Ra",
    "Switch",
    "Vm",
    "Where",
    "end_name",
    "is_vm_end",
    "lab_problems",
    "split_end",
]

_OWN_PORTS: Final = ("services", "nat")  # of a switch: stations.py, gateways.py

Where = tuple[str | int, ...]  # a way through the file: tables, keys, positions in arrays


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Nic(Strict):
    """A network card of a VM."""

    mac: Mac | None = None
    """Not given: derived from the names of lab, VM and NIC."""
    model: str = Field(default="virtio-net-pci", pattern=r"^[A-Za-z0-9._-]+$")
    transport: Literal["stream", "vhost-user"] = "stream"
    queues: int = Field(default=1, ge=1, le=16)
    """Pairs; more than one needs vhost-user."""
    mtu: int | None = Field(default=None, ge=68, le=65_535)
    addr: tuple[Cidr, ...] = ()
    """Set by the guest's agent after boot."""

    @model_validator(mode="after")
    def _rings_are_possible(self) -> Self:
        if self.queues > 1 and self.transport != "vhost-user":
            raise ValueError('queues above 1 need transport = "vhost-user"')
        if self.transport == "vhost-user" and not self.model.startswith("virtio-net"):  # as net/vhost-user.c
            raise ValueError(
                f'{self.model} has no vhost-user; take a virtio-net model, or transport = "stream"'
            )
        return self


class Vm(Strict):
    """A guest: an image of ours, or anything QEMU boots."""

    image: str | None = None
    """A recipe's name, or the path of one."""
    kernel: str | None = None
    initrd: str | None = None
    append: str = ""
    """To the kernel's command line."""
    disk: str | None = None
    """In qcow2 or raw format; changes are thrown away unless `persistent`."""
    persistent: bool = False
    memory: Memory | None = Field(default=None, examples=["256M"])
    """Not given: the image's, else 512M."""
    cpus: int = Field(default=1, ge=1, le=255)
    machine: str = Field(default="pc", pattern=r"^[A-Za-z0-9._,=-]+$")
    args: tuple[str, ...] = ()
    """For QEMU."""
    files: dict[str, str] = {}
    """Guest path -> path of a file on the host, copied in before `start`."""
    start: tuple[str, ...] = ()
    """Shell commands for the guest's agent, after boot."""
    nic: dict[NicName, Nic] = {}

    @model_validator(mode="after")
    def _boots_something(self) -> Self:
        ways = [way for way in (self.image, self.kernel, self.disk) if way is not None]
        if not ways:
            raise ValueError("nothing to boot; give image, kernel or disk")
        if self.image is not None and (self.kernel is not None or self.initrd is not None):
            raise ValueError("an image has its kernel; leave kernel and initrd out")
        if self.image is None and (self.files or self.start):
            raise ValueError("files and start need the agent of an image; give image")
        return self

    @property
    def has_agent(self) -> bool:
        return self.image is not None


class Impair(Strict):
    """What a direction of a cable does to its frames; the same words and values as the keys of a PORT."""

    delay: Quantity | None = Field(default=None, examples=["50ms"])
    """How long frames take."""
    jitter: Quantity | None = Field(default=None, examples=["5ms"])
    """How much later they may be."""
    rate: Quantity | None = Field(default=None, examples=["10M"])
    """Bits a second."""
    burst: Quantity | None = Field(default=None, examples=["64k"])
    """Bytes that may go faster than `rate`."""
    queue: Quantity | None = Field(default=None, examples=[1000])
    """Frames that may wait."""
    loss: Quantity | None = Field(default=None, examples=["1%", 0.01])
    """Part of the frames that is lost."""
    duplicate: Quantity | None = Field(default=None, examples=["1%", 0.01])
    """Part that arrives twice."""
    corrupt: Quantity | None = Field(default=None, examples=["1%", 0.01])
    """Part that has a bit flipped."""
    reorder: Quantity | None = Field(default=None, examples=["1%", 0.01])
    """Part that overtakes those before it."""
    overtake: OnOff | None = None
    """Whether frames with less jitter overtake others."""
    seed: Quantity | None = Field(default=None, examples=[7])
    """The same seed loses the same frames."""
    hold: Quantity | None = Field(default=None, examples=["64M"])
    """Bytes that may be on their way."""

    @field_validator("*")
    @classmethod
    def _can_be(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, str) and (read := QUANTITIES.get(info.field_name or "")) is not None:
            read(value)
        return value

    def keys(self) -> dict[str, str]:
        """Those that are given."""
        return {key: value for key in Impair.model_fields if (value := getattr(self, key)) is not None}


class Cable(Impair):
    """Two ends, joined. The impairments are of both directions; `forward` and `back` say otherwise for one."""

    ends: tuple[End, End]
    name: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9-]{0,19}$")
    up: bool = True
    carrier: Quantity | Literal[False] = "0"
    """For how long a lost carrier stays away; False: ends do not notice."""
    forward: Impair = Impair()
    """From the first end to the second."""
    back: Impair = Impair()

    @property
    def title(self) -> str:
        """What the link is called."""
        return self.name or "--".join(map(end_name, self.ends))

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        for keys in self.directions():
            NO_IMPAIRMENT.changed({key: value for key, value in keys.items() if key in KEYS})
            if "burst" in keys and "rate" not in keys:
                raise ValueError("burst is of no use without a rate; give one too")
        return self

    def directions(self) -> tuple[dict[str, str], dict[str, str]]:
        """Impairments of forward and back, as keys of a PORT."""
        both = self.keys()
        return both | self.forward.keys(), both | self.back.keys()


class Dhcp(Strict):
    """DHCPv4 on a switch."""

    range: str = Field(pattern=r"^[0-9.]+-[0-9.]+$", examples=["10.0.0.100-10.0.0.150"])
    """FIRST-LAST."""
    lease: Time = "1h"
    router: Ip4 | None = None
    """Not given: the NAT's address, else none."""
    hosts: dict[str, Ip4] = {}
    """VM, VM:NIC or MAC address -> reserved address."""

    @property
    def bounds(self) -> tuple[IPv4Address, IPv4Address]:
        first, last = map(IPv4Address, self.range.split("-"))
        return first, last

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        first, last = self.bounds
        if first > last:
            raise ValueError(f"the range {self.range} ends before it begins")
        return self


class Ra(Strict):
    """Router advertisements of the switch's IPv6 prefixes, and stateless DHCPv6."""

    lifetime: Time = "30m"
    """Of the advertised router; 0: prefixes only."""


class Dns(Strict):
    """A name server for the lab's names."""

    domain: str = Field(default="lab", pattern=r"^[a-z0-9-]+(\.[a-z0-9-]+)*$")
    forward: bool = False
    """Ask the host's resolvers for the rest."""
    records: dict[str, Ip] = {}


class Nat(Strict):
    """A gateway from a switch to the outside of the lab."""

    addr: tuple[Cidr, ...] = Field(min_length=1)
    forward: tuple[Forward, ...] = ()
    """Ports of the host that lead to guests: PROTOCOL:[LISTEN:]PORT:VM:PORT."""

    @property
    def config(self) -> NatConfig:
        return NatConfig(tuple(map(ip_interface, self.addr)), tuple(map(parse_forward, self.forward)))


def _flag(model: type[Strict]) -> BeforeValidator:
    """`dns = true` means the defaults."""

    def read(value: Any) -> Any:
        if value is True:
            return model()
        return None if value is False else value

    return BeforeValidator(read)


class Switch(Strict):
    """A learning switch, and the services on it."""

    ports: tuple[End, ...] = ()
    addr: tuple[Cidr, ...] = ()
    """Of the station that serves dhcp, ra and dns; it answers pings too."""
    dhcp: Dhcp | None = None
    ra: Annotated[Ra | None, _flag(Ra)] = None
    dns: Annotated[Dns | None, _flag(Dns)] = None
    nat: Nat | None = None

    @property
    def addresses(self) -> tuple[Address, ...]:
        return tuple(ip_interface(text) for text in self.addr)

    @model_validator(mode="after")
    def _services_have_a_place(self) -> Self:
        wanted = [word for word in ("dhcp", "ra", "dns") if getattr(self, word) is not None]
        if wanted and not self.addr:
            raise ValueError(f"{', '.join(wanted)} need an address to live at; give addr")
        if self.ra is not None and not any(isinstance(each.ip, IPv6Address) for each in self.addresses):
            raise ValueError("ra needs an IPv6 address in addr, whose prefix it announces")
        if self.dhcp is not None:
            nets = [each.network for each in self.addresses if isinstance(each.ip, IPv4Address)]
            if not any(all(bound in net for bound in self.dhcp.bounds) for net in nets):
                raise ValueError(f"the dhcp range {self.dhcp.range} is in no network of addr")
        return self


class Capture(Strict):
    """A pcapng file that is written while the lab runs."""

    file: str
    links: tuple[str, ...] = ()
    """Not given: all."""
    filter: str | None = None


class Lab(Strict):
    """A whole lab."""

    name: Name
    vm: dict[Name, Vm] = {}
    switch: dict[Name, Switch] = {}
    cable: tuple[Cable, ...] = ()
    capture: tuple[Capture, ...] = ()

    def placed(self) -> Iterator[tuple[Where, str]]:
        """Every end that something is joined to, and where in the file: on switches, then on cables."""
        for name, switch in self.switch.items():
            for place, end in enumerate(switch.ports):
                yield ("switch", name, "ports", place), end
        for number, cable in enumerate(self.cable):
            for place, end in enumerate(cable.ends):
                yield ("cable", number, "ends", place), end

    def ends(self) -> Iterator[str]:
        """Every end that something is joined to, in the order of the file: switches, then cables."""
        return (end for _, end in self.placed())

    def nics(self, vm: str) -> dict[str, Nic]:
        """All NICs of a VM: declared ones first, then in the order in which they are first named."""
        found = dict(self.vm[vm].nic)
        for end in self.ends():
            if is_vm_end(end):
                owner, nic = split_end(end)
                if owner == vm:
                    found.setdefault(nic, Nic())
        return found

    def is_switch_end(self, end: str) -> bool:
        """Whether a cable's end is on a switch. A VM of that name comes first."""
        owner = split_end(end)[0]
        return is_vm_end(end) and owner not in self.vm and owner in self.switch

    def switches_of(self, cable: Cable) -> list[str]:
        """The switches that it has ends on."""
        return [split_end(end)[0] for end in cable.ends if self.is_switch_end(end)]

    def joined(self, switch: str) -> tuple[str, ...]:
        """A switch and those that cables join to it, over others too."""
        found = [switch]
        for here in found:
            for cable in self.cable:
                both = self.switches_of(cable)
                found += [other for other in both if here in both and other not in found]
        return tuple(name for name in self.switch if name in found)

    def cards(self, switch: str) -> tuple[str, ...]:
        """The VM:NIC of a switch's network: on it and those that are joined to it, and behind cables to them."""
        joined = self.joined(switch)
        ends = [end for name in joined for end in self.switch[name].ports]
        ends += [
            end for cable in self.cable if set(self.switches_of(cable)) & set(joined) for end in cable.ends
        ]
        return tuple(end for end in ends if is_vm_end(end) and not self.is_switch_end(end))

    def links(self) -> tuple[str, ...]:
        """Titles of all links: cables, and `SWITCH/END` for what is on a switch."""
        on_switches = [
            f"{name}/{end_name(end)}" for name, switch in self.switch.items() for end in switch.ports
        ]
        return (*(cable.title for cable in self.cable), *on_switches)

    def ports(self) -> dict[str, PortSpec]:
        """The ends that are PORTs, parsed."""
        return {end: parse_port(end) for end in self.ends() if not is_vm_end(end)}

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        if problems := list(lab_problems(self)):
            raise PydanticCustomError("lab", "{what}", {"what": problems[0][1], "problems": problems})
        return self


def lab_problems(lab: Lab) -> Iterator[tuple[Where, str]]:
    """What is wrong with the parts of a lab taken together, and where."""
    yield from _end_problems(lab)
    yield from _loop_problems(lab)
    named = Counter(lab.links())
    for number, cable in enumerate(lab.cable):
        if named[cable.title] > 1:
            yield ("cable", number, "name"), f"two links are called {cable.title!r}; give one another name"
        if cable.title in lab.switch:
            yield ("cable", number, "name"), f"a switch is called {cable.title!r} too; give one another name"
        for place, (end, keys) in enumerate(zip(cable.ends, reversed(cable.directions()), strict=True)):
            if not is_vm_end(end) and (words := _line_words(parse_port(end), keys)):
                what = f"{words} of {end!r}: on a cable this is the cable's; write it as its keys"
                yield ("cable", number, "ends", place), what
    for name, switch in lab.switch.items():
        for host in switch.dhcp.hosts if switch.dhcp is not None else ():
            if problem := _host_problem(lab, name, host):
                yield ("switch", name, "dhcp", "hosts", host), problem
    files = Counter(capture.file for capture in lab.capture)
    for number, capture in enumerate(lab.capture):
        if files[capture.file] > 1:
            yield ("capture", number, "file"), f"two captures write {capture.file!r}; give one another file"
        for place, link in enumerate(capture.links):
            if link not in named:
                known = ", ".join(named) or "none"
                yield ("capture", number, "links", place), f"there is no link {link!r}; there are {known}"


def _end_problems(lab: Lab) -> Iterator[tuple[Where, str]]:
    seen = set[str]()
    for where, end in lab.placed():
        if lab.is_switch_end(end):
            if where[0] == "switch":
                yield where, f"end {end!r}: it is a switch's; join switches by a [[cable]] with two such ends"
            elif split_end(end)[1] in _OWN_PORTS:
                yield where, f"end {end!r}: a port of the switch's own is called so; give it another name"
        elif is_vm_end(end) and split_end(end)[0] not in lab.vm:
            known = ", ".join([*lab.vm, *(lab.switch if where[0] == "cable" else ())]) or "none"
            what = "VM" if where[0] == "switch" else "VM or switch"
            yield where, f"end {end!r}: there is no {what} {split_end(end)[0]!r}; there are {known}"
        if end_name(end) in seen:
            yield (
                where,
                f"end {end_name(end)!r} is joined twice; a NIC or PORT has one place, name= tells PORTs apart",
            )
        seen.add(end_name(end))
    for name, vm in lab.vm.items():
        for nic, config in vm.nic.items():
            if config.transport == "vhost-user" and f"{name}:{nic}" not in seen:
                what = f"{name}:{nic} is vhost-user and joined to nothing, which QEMU does not start with; join it"
                yield ("vm", name, "nic", nic), what


def _loop_problems(lab: Lab) -> Iterator[tuple[Where, str]]:
    """Cables that are up and lead back to a switch: nobody here speaks a spanning tree protocol."""
    reached: dict[str, str] = {}  # from a switch nearer to that which stands for all that are joined

    def root(switch: str) -> str:
        while switch in reached:
            switch = reached[switch]
        return switch

    for number, cable in enumerate(lab.cable):
        switches = lab.switches_of(cable)
        if cable.up and len(switches) == 2:
            one, two = map(root, switches)
            if one == two:
                what = f"cable {cable.title!r} closes a loop of switches, where frames would circle for ever"
                yield ("cable", number, "ends"), f"{what}; leave it out, or give it up = false"
            else:
                reached[one] = two


def _line_words(spec: PortSpec, keys: Mapping[str, str]) -> str:
    """What a PORT on a cable says, and may not: the cable has `keys` for the same end."""
    found = ["rate"] if spec.options.rate is not None else []
    found += ["queue"] if spec.options.queue is not None and "queue" in keys else []
    return ", ".join([*found, *spec.options.impairment.settings()])


def _host_problem(lab: Lab, switch: str, host: str) -> str | None:
    """What is wrong with a reservation's key."""
    owner, colon, _ = host.partition(":")
    if owner in lab.vm:
        here = {end if colon else split_end(end)[0] for end in lab.cards(switch)}
        return None if host in here else f"{host!r} is not on this switch; reservations are for what is on it"
    try:
        values.mac_address("it", host)
    except ValueError:
        return f"{host!r} is no VM, VM:NIC or MAC address"
    return None
