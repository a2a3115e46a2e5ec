"""What QEMU says that it knows. The texts are QEMU 7.2.22's, shortened."""

import stat
from pathlib import Path

import pytest

from vbackend.qemu.catalogue import Devices, known_devices, known_machines, parse_devices, parse_machines

MACHINES = """\
Supported machines are:
microvm              microvm (i386)
pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-7.2)
pc-i440fx-7.2        Standard PC (i440FX + PIIX, 1996) (default)
pc-i440fx-1.4        Standard PC (i440FX + PIIX, 1996) (deprecated)
q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-7.2)
pc-q35-4.0.1         Standard PC (Q35 + ICH9, 2009)
none                 empty machine
"""
DEVICES = """\
Controller/Bridge/Hub devices:
name "cxl-downstream", bus PCI, desc "CXL Switch Downstream Port"
name "x3130-upstream", bus PCI, desc "TI X3130 Upstream Port of PCI Express Switch"

Storage devices:
name "virtio-blk-pci", bus PCI, alias "virtio-blk"

Network devices:
name "e1000", bus PCI, alias "e1000-82540em", desc "Intel Gigabit Ethernet"
name "ne2k_isa", bus ISA
name "usb-net", bus usb-bus
name "virtio-net-pci", bus PCI, alias "virtio-net"
name "vmxnet3", bus PCI, desc "VMWare Paravirtualized Ethernet v3"

CPU devices:
name "486-v1-x86_64-cpu"
"""


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (MACHINES, {"microvm", "pc", "pc-i440fx-7.2", "pc-i440fx-1.4", "q35", "pc-q35-4.0.1", "none"}),
        (f"a warning\n{MACHINES}", {"microvm", "pc", "pc-i440fx-7.2", "pc-i440fx-1.4", "q35", "pc-q35-4.0.1", "none"}),
        (DEVICES, set()),
        ("", set()),
    ],
    ids=["7.2", "a warning before", "something else", "nothing"],
)  # fmt: skip
def test_machines(text: str, names: set[str]) -> None:
    assert parse_machines(text) == names


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        (
            DEVICES,
            Devices(
                frozenset(
                    (
                        "e1000",
                        "e1000-82540em",
                        "ne2k_isa",
                        "usb-net",
                        "virtio-net-pci",
                        "virtio-net",
                        "vmxnet3",
                    )
                ),
                frozenset(
                    ("cxl-downstream", "x3130-upstream", "virtio-blk-pci", "virtio-blk", "486-v1-x86_64-cpu")
                ),
            ),
        ),
        (
            'Network devices:\nname "both"\nMisc devices:\nname "both"\nname "misc"\n',
            Devices(frozenset(("both",)), frozenset(("misc",))),
        ),
        (MACHINES, Devices()),
        ('name "x"\n', Devices()),
    ],
    ids=["7.2", "in two categories", "something else", "no heading"],
)
def test_devices(text: str, devices: Devices) -> None:
    assert parse_devices(text) == devices


def program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_asks_a_binary_once(tmp_path: Path) -> None:
    (tmp_path / "machine").write_text(MACHINES)
    (tmp_path / "device").write_text(DEVICES)
    binary = program(
        tmp_path / "qemu", f'cd {tmp_path}; echo "$@" >>asked; [ "$2" = help ] && cat "${{1#-}}"'
    )
    for _ in range(2):
        assert "q35" in known_machines(binary)
        assert "e1000" in known_devices(binary).cards
    assert (tmp_path / "asked").read_text() == "-machine help\n-device help\n"


def test_who_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert known_machines("no-such-qemu") == frozenset()
    (tmp_path / "broken").write_text("#!/no/such/interpreter\n")
    (tmp_path / "broken").chmod(0o755)
    assert known_machines(str(tmp_path / "broken")) == frozenset()
    (tmp_path / "machines").write_text(MACHINES)
    assert known_machines(program(tmp_path / "failing", f"cat {tmp_path}/machines; exit 1")) == frozenset()
    monkeypatch.setattr("vbackend.qemu.catalogue._PATIENCE_S", 0.05)
    assert known_devices(program(tmp_path / "slow", "exec sleep 60")) == Devices()


@pytest.mark.guest
def test_the_installed_one() -> None:
    assert {"pc", "q35", "none"} <= known_machines()
    devices = known_devices()
    assert {
        "e1000",
        "rtl8139",
        "virtio-net",
        "virtio-net-pci",
        "virtio-net-pci-transitional",
    } <= devices.cards
    assert {"virtio-rng-pci", "virtio-serial-pci"} <= devices.others
