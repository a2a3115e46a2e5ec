"""QEMU's command line for a VM of a lab, and the QMP commands that plug a card into it. Pure.

    qmp.sock agent.sock console.sock    QEMU listens on all of them, so that it outlives whoever is connected
    port/VM:NIC.sock                    stream: QEMU listens, vbackend dials; vhost-user: the other way round
    pid                                 -pidfile; also the mark by which this VM's QEMU is found among all processes

The ids in QEMU follow from the NIC's name: `net-NIC` is the netdev, `nic-NIC` the device.
Rule: a card that is plugged in is the same as one that was there from the start, since its QMP commands are made of
the very arguments.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vbackend.images import BuiltImage
from vbackend.lab.model import Nic, Vm
from vbackend.lab.names import VmPlace
from vbackend.lab.picture import nic_port
from vbackend.lab.steps import NicPort
from vbackend.ports.spec import PortOptions, StreamSpec, UnixAddress, VhostUserSpec
from vbackend.qemu.agent import PORT_NAME
from vbackend.qemu.netdev import netdev_arguments
from vbackend.qemu.options import memory_to_share, shared_memory
from vbackend.qemu.version import QemuVersion

__all__ = [
    "VMSTATE",
    "Card",
    "Host",
    "QmpCall",
    "configure_script",
    "device_id",
    "netdev_id",
    "nic_arguments",
    "plug_calls",
    "port_spec",
    "vm_command",
    "vmstate_file",
]

VMSTATE: Final = "vmstate"  # the node that snapshots lie in
_MEMORY: Final = "512M"  # of a VM that names no image
_QCOW2: Final = b"QFI\xfb"


@dataclass(frozen=True, slots=True)
class Host:
    """The QEMU that runs the VMs here."""

    binary: str
    version: QemuVersion
    accel: str


@dataclass(frozen=True, slots=True)
class Card:
    """A network card: what the lab says of it, with its MAC address, and the socket between QEMU and vbackend."""

    nic: Nic
    socket: Path

    @property
    def mac(self) -> str:
        assert self.nic.mac is not None, "steps have cards with their addresses"
        return self.nic.mac


@dataclass(frozen=True, slots=True)
class QmpCall:
    command: str
    arguments: dict[str, object]


def vmstate_file(place: VmPlace) -> Path:
    """Where snapshots lie."""
    return place.folder / "vmstate.qcow2"


def netdev_id(nic: str) -> str:
    return f"net-{nic}"


def device_id(nic: str) -> str:
    return f"nic-{nic}"


def port_spec(socket: Path, port: NicPort) -> StreamSpec | VhostUserSpec:
    """vbackend's end of a card."""
    path, options = str(socket), PortOptions()
    if port.transport == "vhost-user":
        return VhostUserSpec(
            f"vhost-user:{path}", options, UnixAddress(path), queues=port.queues, mtu=port.mtu
        )
    return StreamSpec(f"stream:unix:{path}", options, UnixAddress(path), dial=True)


def nic_arguments(name: str, card: Card, host: Host) -> list[str]:
    """The -chardev, -netdev and -device of a card."""
    found = netdev_arguments(
        port_spec(card.socket, nic_port(card.nic)),
        host.version,
        netdev_id=netdev_id(name),
        mac=card.mac,
        model=card.nic.model,
        kvm=host.accel == "kvm",
    )
    *others, device = found.arguments
    # Nobody boots from the network, and an option ROM would cost time in the BIOS.
    rom = ",romfile=" if card.nic.model.startswith("virtio-net-pci") else ""
    return [*others, f"{device},id={device_id(name)}{rom}"]


def plug_calls(arguments: Sequence[str]) -> list[QmpCall]:
    """The QMP commands that do what `nic_arguments` does at the start, in order."""
    calls = []
    for option, text in zip(arguments[::2], arguments[1::2], strict=True):
        first, values = _parsed(text)
        match option:
            case "-chardev":
                ident, path = values.pop("id"), values.pop("path")
                data = {**values, "addr": {"type": "unix", "data": {"path": path}}, "server": False}
                calls.append(QmpCall("chardev-add", {"id": ident, "backend": {"type": first, "data": data}}))
            case "-netdev":
                calls.append(QmpCall("netdev_add", {"type": first, **_nested(values)}))
            case "-device":
                calls.append(QmpCall("device_add", {"driver": first, **values}))
            case _:
                raise AssertionError(f"nic_arguments has no {option}")
    return calls


def vm_command(
    name: str,
    vm: Vm,
    cards: Mapping[str, Card],
    place: VmPlace,
    host: Host,
    *,
    image: BuiltImage | None = None,
    disk_head: bytes = b"",
    snapshots: bool = False,
) -> list[str]:
    """The whole command. `image`: the VM's, built; `disk_head`: the first bytes of its disk; `snapshots`: there is a
    file for them."""
    command = [host.binary, "-name", name, "-nodefaults", "-no-user-config", "-display", "none"]
    command += ["-pidfile", str(place.pid), "-machine", vm.machine, "-accel", host.accel]
    command += ["-smp", str(vm.cpus)]
    command += _boot(name, vm, image, disk_head)
    command += [*_listening("qmp", place.qmp), "-mon", "chardev=qmp,mode=control"]
    command += _listening("console", place.console, f"logfile={_escaped(place.console_log)}", "logappend=on")
    command += ["-serial", "chardev:console"]
    if vm.has_agent:
        command += ["-device", "virtio-serial-pci", *_listening("agent", place.agent)]
        command += ["-device", f"virtserialport,chardev=agent,name={PORT_NAME}"]
    if snapshots:
        file = _escaped(vmstate_file(place))
        command += [
            "-blockdev",
            f"driver=qcow2,node-name={VMSTATE},file.driver=file,file.filename={file}",
        ]
    for nic, card in cards.items():
        command += nic_arguments(nic, card, host)
    command += vm.args
    size = memory_to_share(command)  # shared for every VM, so that a vhost-user card can be plugged in later
    return command if size is None else [*command, *shared_memory(size)]


def configure_script(cards: Mapping[str, Card]) -> str:
    """A shell script for the guest that gives its interfaces their names, MTUs and addresses; "" when it need not run.

    An interface is found by its MAC address. It keeps its name when another one has the wanted one already. One that
    does not come within some seconds, as a plugged card should, is an error.
    """
    lines = []
    for name, card in cards.items():
        lines.append(f"pick {shlex.quote(card.mac)} {shlex.quote(name)} || exit 1")
        if card.nic.mtu is not None:
            lines.append(f'ip link set dev "$at" mtu {card.nic.mtu} || exit 1')
        lines += [f'ip addr replace {shlex.quote(addr)} dev "$at" || exit 1' for addr in card.nic.addr]
        lines += ['ip link set dev "$at" up || exit 1'] if card.nic.addr else []
    return "\n".join([_PICK, *lines]) if lines else ""


_PICK: Final = """\
pick() { # MAC NAME: leaves the interface's name in $at
    tries=0
    while [ $tries -lt 100 ]; do
        for each in /sys/class/net/*; do
            [ "$(cat "$each/address" 2>/dev/null)" = "$1" ] || continue
            at=${each##*/}
            [ "$at" = "$2" ] && return 0
            [ -e "/sys/class/net/$2" ] && return 0
            ip link set dev "$at" down && ip link set dev "$at" name "$2" && at=$2
            return 0
        done
        usleep 50000
        tries=$((tries + 1))
    done
    echo "no network interface has the address $1 ($2)" >&2
    return 1
}"""


def _boot(name: str, vm: Vm, image: BuiltImage | None, disk_head: bytes) -> list[str]:
    words = [] if image is None else image.boot_arguments(name)
    if vm.memory is not None or image is None:
        words += ["-m", vm.memory or _MEMORY]
    if image is not None and vm.append:
        at = words.index("-append") + 1
        words[at] = f"{words[at]} {vm.append}"
    if vm.kernel is not None:
        words += ["-kernel", vm.kernel]
        words += [] if vm.initrd is None else ["-initrd", vm.initrd]
        words += ["-append", vm.append] if vm.append else []
    if vm.disk is not None:
        kind = "qcow2" if disk_head.startswith(_QCOW2) else "raw"
        keep = "off" if vm.persistent else "on"
        words += ["-drive", f"if=virtio,format={kind},snapshot={keep},file={_escaped(Path(vm.disk))}"]
    return words


def _listening(ident: str, path: Path, *more: str) -> list[str]:
    return ["-chardev", ",".join([f"socket,id={ident},path={_escaped(path)},server=on,wait=off", *more])]


def _escaped(path: Path) -> str:
    return str(path).replace(",", ",,")


def _parsed(text: str) -> tuple[str, dict[str, object]]:
    """The first word and the values of an option, numbers and switches as JSON has them."""
    first, *words = (word.replace("\0", ",") for word in text.replace(",,", "\0").split(","))
    pairs = (word.partition("=") for word in words)
    return first, {key: _typed(value) for key, _, value in pairs}


def _typed(value: str) -> object:
    if value in ("on", "off"):
        return value == "on"
    return int(value) if value.isascii() and value.isdigit() else value


def _nested(values: Mapping[str, object]) -> dict[str, object]:
    """`addr.path` is `path` of the object `addr`."""
    found: dict[str, object] = {}
    inner: dict[str, dict[str, object]] = {}
    for key, value in values.items():
        outer, dot, rest = key.partition(".")
        if dot:
            found[outer] = inner.setdefault(outer, {})
            inner[outer][rest] = value
        else:
            found[key] = value
    return found
