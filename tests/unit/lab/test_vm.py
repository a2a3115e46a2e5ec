"""QEMU's command line of a VM, and the QMP commands that plug a card in."""

from itertools import pairwise
from pathlib import Path

import pytest

from vbackend.images import BuiltImage
from vbackend.lab.model import Nic, Vm
from vbackend.lab.names import VmPlace
from vbackend.lab.steps import NicPort
from vbackend.lab.vm import (
    Card,
    Host,
    QmpCall,
    configure_script,
    nic_arguments,
    plug_calls,
    port_spec,
    vm_command,
)
from vbackend.ports.parse import format_port
from vbackend.qemu.version import QemuVersion

MAC = "02:00:00:00:00:01"
HOST = Host("/usr/bin/qemu", QemuVersion(7, 2), "tcg")
PLACE = VmPlace.of(Path("/run/lab"), "r1")
IMAGE = BuiltImage("small", Path("/c"), Path("/c/vmlinuz"), Path("/c/initrd"), "console=ttyS0", 160, ("a=1",))
SOCKET = Path("/run/lab/port/r1:eth0.sock")


def card(**fields: object) -> Card:
    return Card(Nic.model_validate({"mac": MAC, **fields}), SOCKET)


def after(command: list[str], option: str) -> list[str]:
    return [text for word, text in pairwise(command) if word == option]


def test_a_vm_with_an_image() -> None:
    vm = Vm(image="small", memory="256M", cpus=2, append="loglevel=7", args=("-device", "virtio-rng-pci"))
    command = vm_command("r1", vm, {"eth0": card()}, PLACE, HOST, image=IMAGE, snapshots=True)
    assert command[0] == "/usr/bin/qemu"
    assert after(command, "-pidfile") == ["/run/lab/vm/r1/pid"]
    assert after(command, "-m") == ["160", "256M"]  # the last one counts
    assert after(command, "-append") == ["console=ttyS0 hostname=r1 loglevel=7"]
    assert after(command, "-smp") == ["2"]
    assert after(command, "-accel") == ["tcg"]
    assert after(command, "-blockdev") == [
        "driver=qcow2,node-name=vmstate,file.driver=file,file.filename=/run/lab/vm/r1/vmstate.qcow2"
    ]
    assert after(command, "-chardev") == [
        "socket,id=qmp,path=/run/lab/vm/r1/qmp.sock,server=on,wait=off",
        "socket,id=console,path=/run/lab/vm/r1/console.sock,server=on,wait=off,"
        "logfile=/run/lab/vm/r1/console.log,logappend=on",
        "socket,id=agent,path=/run/lab/vm/r1/agent.sock,server=on,wait=off",
    ]
    assert after(command, "-netdev") == [f"stream,id=net-eth0,server=on,addr.type=unix,addr.path={SOCKET}"]
    assert after(command, "-device")[-2:] == [
        f"virtio-net-pci,netdev=net-eth0,mac={MAC},id=nic-eth0,romfile=",
        "virtio-rng-pci",
    ]
    assert after(command, "-object") == ["memory-backend-memfd,id=vbackend-memory,size=256M,share=on"]


def test_a_vm_of_its_own() -> None:
    vm = Vm(kernel="/k", initrd="/i,j", append="quiet", disk="/d,e.img", memory="64M")
    command = vm_command("r1", vm, {}, PLACE, HOST, disk_head=b"QFI\xfb")
    assert after(command, "-kernel") == ["/k"]
    assert after(command, "-initrd") == ["/i,j"]
    assert after(command, "-append") == ["quiet"]
    assert after(command, "-drive") == ["if=virtio,format=qcow2,snapshot=on,file=/d,,e.img"]
    assert "agent" not in " ".join(command)
    assert "-blockdev" not in command


@pytest.mark.parametrize(("persistent", "words"), [(True, "snapshot=off"), (False, "snapshot=on")])
def test_a_raw_disk(persistent: bool, words: str) -> None:
    vm = Vm(disk="/d.img", persistent=persistent)
    command = vm_command("r1", vm, {}, PLACE, HOST, disk_head=b"\xeb\x3c")
    assert after(command, "-drive") == [f"if=virtio,format=raw,{words},file=/d.img"]
    assert after(command, "-m") == ["512M"]


def test_memory_that_is_shared_already() -> None:
    own = ("-object", "memory-backend-memfd,id=m,size=64M", "-machine", "memory-backend=m")
    command = vm_command("r1", Vm(disk="/d", memory="64M", args=own), {}, PLACE, HOST)
    assert after(command, "-object") == ["memory-backend-memfd,id=m,size=64M"]


@pytest.mark.parametrize(
    ("found", "calls"),
    [
        (
            card(),
            [
                QmpCall(
                    "netdev_add",
                    {
                        "type": "stream",
                        "id": "net-eth0",
                        "server": True,
                        "addr": {"type": "unix", "path": str(SOCKET)},
                    },
                ),
                QmpCall(
                    "device_add",
                    {
                        "driver": "virtio-net-pci",
                        "netdev": "net-eth0",
                        "mac": MAC,
                        "id": "nic-eth0",
                        "romfile": "",
                    },
                ),
            ],
        ),
        (
            card(transport="vhost-user", queues=2, mtu=9000, model="virtio-net-pci-non-transitional"),
            [
                QmpCall(
                    "chardev-add",
                    {
                        "id": "net-eth0-socket",
                        "backend": {
                            "type": "socket",
                            "data": {
                                "addr": {"type": "unix", "data": {"path": str(SOCKET)}},
                                "server": False,
                                "reconnect": 1,
                            },
                        },
                    },
                ),
                QmpCall(
                    "netdev_add",
                    {"type": "vhost-user", "id": "net-eth0", "chardev": "net-eth0-socket", "queues": 2},
                ),
                QmpCall(
                    "device_add",
                    {
                        "driver": "virtio-net-pci-non-transitional",
                        "netdev": "net-eth0",
                        "mac": MAC,
                        "mq": True,
                        "vectors": 0,
                        "packed": True,
                        "host_mtu": 9000,
                        "id": "nic-eth0",
                        "romfile": "",
                    },
                ),
            ],
        ),
        (
            card(model="e1000"),
            [
                QmpCall(
                    "netdev_add",
                    {
                        "type": "stream",
                        "id": "net-eth0",
                        "server": True,
                        "addr": {"type": "unix", "path": str(SOCKET)},
                    },
                ),
                QmpCall(
                    "device_add", {"driver": "e1000", "netdev": "net-eth0", "mac": MAC, "id": "nic-eth0"}
                ),
            ],
        ),
    ],
    ids=["stream", "vhost-user", "e1000"],
)
def test_plugging_a_card_in(found: Card, calls: list[QmpCall]) -> None:
    assert plug_calls(nic_arguments("eth0", found, HOST)) == calls


def test_a_path_with_a_comma() -> None:
    odd = Card(Nic(mac=MAC), Path("/a,b/c.sock"))
    first = plug_calls(nic_arguments("eth0", odd, HOST))[0]
    assert first.arguments["addr"] == {"type": "unix", "path": "/a,b/c.sock"}


@pytest.mark.parametrize(
    ("port", "text"),
    [
        (NicPort(), "stream:unix:/s,dial"),
        (NicPort("vhost-user", 2, 9000), "vhost-user:/s,queues=2,mtu=9000"),
    ],
)
def test_our_end(port: NicPort, text: str) -> None:
    assert format_port(port_spec(Path("/s"), port)) == text


def test_what_the_guest_configures() -> None:
    assert configure_script({}) == ""
    lines = configure_script({"lan": card(addr=["10.0.0.1/24", "fd00::1/64"], mtu=9000), "b": card()})
    assert lines.split("}\n")[-1].splitlines() == [
        f"pick {MAC} lan || exit 1",
        'ip link set dev "$at" mtu 9000 || exit 1',
        'ip addr replace 10.0.0.1/24 dev "$at" || exit 1',
        'ip addr replace fd00::1/64 dev "$at" || exit 1',
        'ip link set dev "$at" up || exit 1',
        f"pick {MAC} b || exit 1",
    ]
