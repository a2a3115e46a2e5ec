from pathlib import Path, PurePosixPath

import pytest

from vbackend.errors import ConfigError, HostError
from vbackend.images import cpio
from vbackend.images.recipe import Modules
from vbackend.images.root import (
    applet_tree,
    make_root,
    merged,
    module_tree,
    program_tree,
    read_overlay,
    skeleton,
)


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("/bin/sh", "usr/bin/sh"),
        ("sbin/init", "usr/sbin/init"),
        ("/lib64/ld-linux-x86-64.so.2", "usr/lib64/ld-linux-x86-64.so.2"),
        ("/usr/bin/ping", "usr/bin/ping"),
        ("/etc/bin/x", "etc/bin/x"),
        ("libx/y", "libx/y"),
    ],
)
def test_one_place_for_everything(path: str, inside: str) -> None:
    assert merged(PurePosixPath(path)) == PurePosixPath(inside)


def test_skeleton_boots_from_init() -> None:
    tree = skeleton()
    assert tree[PurePosixPath("init")] == cpio.Symlink("sbin/init")
    assert tree[PurePosixPath("dev/console")] == cpio.CharDevice(5, 1)
    assert tree[PurePosixPath("sbin")] == cpio.Symlink("usr/sbin")
    cpio.newc(tree)


def test_overlay(tmp_path: Path) -> None:
    (tmp_path / "sbin").mkdir()
    (tmp_path / "sbin/rc").write_text("#!/bin/sh\n")
    (tmp_path / "sbin/rc").chmod(0o700)
    (tmp_path / "sbin/sh").symlink_to("dash")
    (tmp_path / "hosts").write_text("x")
    assert read_overlay(tmp_path) == {
        PurePosixPath("usr/sbin/rc"): cpio.File(b"#!/bin/sh\n", 0o755),
        PurePosixPath("usr/sbin/sh"): cpio.Symlink("dash"),
        PurePosixPath("hosts"): cpio.File(b"x", 0o644),
    }
    with pytest.raises(ConfigError, match="is no folder"):
        read_overlay(tmp_path / "hosts")


def test_applets_are_asked_of_the_busybox(tmp_path: Path) -> None:
    make_root(tmp_path)
    busybox = tmp_path / "bin/busybox"
    with pytest.raises(HostError, match="cannot run the image's busybox"):
        applet_tree(tmp_path)
    busybox.write_text("#!/bin/sh\necho bin/ls\necho linuxrc\n")
    busybox.chmod(0o755)
    tree = applet_tree(tmp_path)
    assert tree[PurePosixPath("usr/bin/ls")] == tree[PurePosixPath("linuxrc")] == cpio.Symlink("/bin/busybox")
    assert isinstance(tree[PurePosixPath("usr/bin/busybox")], cpio.File)


def test_modules_bring_what_they_need(tmp_path: Path) -> None:
    for name, depends in (("virtio-net", "virtio"), ("virtio", ""), ("8021q", ""), ("other", "")):
        (tmp_path / f"{name}.ko").write_bytes(f"\0depends={depends}\0".encode())
    tree = module_tree(tmp_path, "6.1", Modules(load=("virtio_net",), available=("8021q",)))
    home = PurePosixPath("usr/lib/modules/6.1")
    assert {path for path in tree if path.suffix == ".ko"} == {
        home / "kernel" / f"{name}.ko" for name in ("virtio_net", "virtio", "8021q")
    }
    assert tree[PurePosixPath("etc/modules")] == cpio.File(b"virtio_net\n")
    table = tree[home / "modules.dep"]
    assert isinstance(table, cpio.File)
    assert b"kernel/virtio_net.ko: kernel/virtio.ko\n" in table.content
    with pytest.raises(ConfigError, match=r"kernel 6\.1 has no module 'e1000'"):
        module_tree(tmp_path, "6.1", Modules(load=("e1000",)))


def test_programs_without_packages(tmp_path: Path) -> None:
    make_root(tmp_path)
    with pytest.raises(ConfigError, match="no package of the recipe holds /usr/bin/tool"):
        program_tree(tmp_path, [PurePosixPath("/bin/tool")])
    (tmp_path / "bin/tool").write_text("#!/bin/sh\n")
    assert program_tree(tmp_path, [PurePosixPath("/bin/tool")]) == {
        PurePosixPath("usr/bin/tool"): cpio.File(b"#!/bin/sh\n", 0o755)
    }


def test_missing_library_is_named(tmp_path: Path) -> None:
    make_root(tmp_path)
    (tmp_path / "bin/tool").write_bytes(Path("/bin/true").read_bytes())
    (tmp_path / "lib64/ld-linux-x86-64.so.2").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"/usr/bin/tool needs libc.so.6, which no package"):
        program_tree(tmp_path, [PurePosixPath("/bin/tool")])


def test_links_are_followed_inside_the_root(tmp_path: Path) -> None:
    """An absolute link of a package must not lead to the host's file of that name."""
    make_root(tmp_path)
    (tmp_path / "bin/real").write_text("ours")
    (tmp_path / "bin/relative").symlink_to("../bin/real")
    (tmp_path / "bin/sh").symlink_to("/bin/relative")
    (tmp_path / "bin/dangling").symlink_to("/bin/ls")
    (tmp_path / "bin/circle").symlink_to("circle")
    path = PurePosixPath("usr/bin/sh")
    assert program_tree(tmp_path, [PurePosixPath("/bin/sh")]) == {path: cpio.File(b"ours", 0o755)}
    for name in ("dangling", "circle"):
        with pytest.raises(ConfigError, match=f"no package of the recipe holds /usr/bin/{name}"):
            program_tree(tmp_path, [PurePosixPath("/bin") / name])
