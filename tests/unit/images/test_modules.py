from pathlib import PurePosixPath

import pytest

from vbackend.images.modules import ModuleInfo, closure, modules_alias, modules_dep, read_module


def info(name: str, *depends: str, aliases: tuple[str, ...] = ()) -> ModuleInfo:
    return ModuleInfo(name, depends, aliases)


KNOWN = {
    each.name: each
    for each in (
        info("virtio_ring"),
        info("virtio", "virtio_ring"),
        info("virtio_pci", "virtio", "virtio_ring"),
        info("failover"),
        info("virtio_net", "failover", "virtio", aliases=("virtio:d00000001v*",)),
        info("a", "b"),
        info("b", "a"),
    )
}


def test_modinfo() -> None:
    data = (
        b"\x7fELF junk depends=not,this\0license=GPL\0depends=net-failover,virtio\0alias=virtio:d00000001v*\0"
        b"alias=second\0name=virtio_net\0intree=Y\0"
    )
    found = read_module("virtio-net", data)
    assert found == ModuleInfo("virtio_net", ("net_failover", "virtio"), ("virtio:d00000001v*", "second"))
    assert read_module("dummy", b"\0depends=\0name=dummy\0").depends == ()


def test_everything_needed_comes_first() -> None:
    names = [each.name for each in closure(["virtio-net", "virtio_pci"], KNOWN.__getitem__)]
    assert names == ["failover", "virtio_ring", "virtio", "virtio_net", "virtio_pci"]


def test_circles_and_strangers() -> None:
    with pytest.raises(ValueError, match="depend on each other: a b"):
        closure(["a"], KNOWN.__getitem__)
    with pytest.raises(KeyError):
        closure(["e1000"], KNOWN.__getitem__)


def test_tables_for_modprobe() -> None:
    """modules.dep: load from right to left."""
    ordered = closure(["virtio_net", "virtio_pci"], KNOWN.__getitem__)
    paths = {each.name: PurePosixPath(f"kernel/{each.name}.ko") for each in ordered}
    assert modules_dep(ordered, paths).splitlines() == [
        "kernel/failover.ko:",
        "kernel/virtio_ring.ko:",
        "kernel/virtio.ko: kernel/virtio_ring.ko",
        "kernel/virtio_net.ko: kernel/virtio.ko kernel/virtio_ring.ko kernel/failover.ko",
        "kernel/virtio_pci.ko: kernel/virtio.ko kernel/virtio_ring.ko",
    ]
    assert modules_alias(ordered) == "alias virtio:d00000001v* virtio_net\n"
