"""The root file system of an image, as a tree of entries: picked out of unpacked packages.

Reads the unpacked packages and the recipe's overlay, runs the image's busybox once to hear its applets, and
writes nothing. Everything lies in /usr, with /bin, /sbin and /lib as links into it, whatever the packages say.
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from vbackend.errors import ConfigError, HostError
from vbackend.images import cpio, modules
from vbackend.images.elf import read_needs
from vbackend.images.recipe import Modules, Recipe

__all__ = [
    "Tree",
    "make_root",
    "merged",
    "module_tree",
    "program_tree",
    "read_overlay",
    "root_tree",
    "skeleton",
]

USR_MERGED: Final = ("bin", "sbin", "lib", "lib64")
LIBRARY_FOLDERS: Final = ("usr/lib/x86_64-linux-gnu", "usr/lib", "usr/lib64")
MOST_LINKS: Final = 40  # as the kernel's own limit

Tree = dict[PurePosixPath, cpio.Entry]


def make_root(root: Path) -> None:
    """An empty root to unpack packages into: the links are there first, so that both layouts land in one place."""
    for name in USR_MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")


def root_tree(root: Path, release: str, recipe: Recipe) -> Tree:
    """Everything but the overlay, out of packages unpacked into `root`; `release` is the kernel's, as uname says it.

    ConfigError when the recipe names what no package holds.
    """
    tree = skeleton() | applet_tree(root)
    tree |= module_tree(root / "usr/lib/modules" / release, release, recipe.modules)
    return tree | program_tree(root, recipe.programs)


def read_overlay(folder: Path) -> Tree:
    """Files and symlinks below a folder, by path; executable or not is all of a mode that counts."""
    if not folder.is_dir():
        raise ConfigError(f"the recipe's overlay {folder} is no folder")
    tree: Tree = {}
    for path in sorted(folder.rglob("*")):
        inside = merged(PurePosixPath(path.relative_to(folder)))
        if path.is_symlink():
            tree[inside] = cpio.Symlink(str(path.readlink()))
        elif path.is_file():
            tree[inside] = cpio.File(path.read_bytes(), 0o755 if path.stat().st_mode & 0o100 else 0o644)
    return tree


def merged(path: PurePosixPath) -> PurePosixPath:
    """Where a path lies relative to the root when /bin, /sbin and /lib are links into /usr."""
    inside = path.relative_to("/") if path.is_absolute() else path
    return PurePosixPath("usr") / inside if inside.parts and inside.parts[0] in USR_MERGED else inside


def skeleton() -> Tree:
    """The folders, links and the one device file a Linux system starts with."""
    folders = ("dev", "proc", "sys", "run", "root", "tmp", "etc", "var/run", "usr/lib64")
    tree: Tree = {PurePosixPath(folder): cpio.Directory() for folder in folders}
    tree[PurePosixPath("tmp")] = cpio.Directory(0o1777)
    tree |= {PurePosixPath(name): cpio.Symlink(f"usr/{name}") for name in USR_MERGED}
    tree[PurePosixPath("init")] = cpio.Symlink("sbin/init")
    tree[PurePosixPath("dev/console")] = cpio.CharDevice(5, 1)
    return tree


def applet_tree(root: Path) -> Tree:
    busybox = root / "usr/bin/busybox"
    try:
        listed = subprocess.run(
            [busybox, "--list-full"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise HostError(
            f"cannot run the image's busybox here: {error}: build it on an x86-64 machine"
        ) from error
    tree: Tree = {merged(PurePosixPath(line)): cpio.Symlink("/bin/busybox") for line in listed.split()}
    tree[PurePosixPath("usr/bin/busybox")] = cpio.File(busybox.read_bytes(), 0o755)
    return tree


def module_tree(folder: Path, release: str, wanted: Modules) -> Tree:
    """The wanted modules with all they depend on, modprobe's tables, and /etc/modules: what to load at boot."""
    files = {modules.normal_name(path.name.removesuffix(".ko")): path for path in folder.rglob("*.ko")}

    def find(name: str) -> modules.ModuleInfo:
        if name not in files:
            raise ConfigError(f"the kernel {release} has no module {name!r} (some parts are built in)")
        return modules.read_module(name, files[name].read_bytes())

    chosen = modules.closure((*wanted.load, *wanted.available), find)
    home = PurePosixPath("usr/lib/modules") / release
    inside = {info.name: PurePosixPath("kernel", f"{info.name}.ko") for info in chosen}
    tree: Tree = {home / inside[info.name]: cpio.File(files[info.name].read_bytes()) for info in chosen}
    tree[home / "modules.dep"] = cpio.File(modules.modules_dep(chosen, inside).encode())
    tree[home / "modules.alias"] = cpio.File(modules.modules_alias(chosen).encode())
    tree[PurePosixPath("etc/modules")] = cpio.File(" ".join(wanted.load).encode() + b"\n")
    return tree


def program_tree(root: Path, programs: Sequence[PurePosixPath]) -> Tree:
    """Programs with their interpreter and shared libraries, found below an unpacked root with merged /usr."""
    tree: Tree = {}
    libraries: set[str] = set()
    todo = [merged(program) for program in programs]
    while todo:
        path = todo.pop()
        if path in tree:
            continue
        found = _inside(root, path)
        if found is None:
            raise ConfigError(f"no package of the recipe holds /{path}")
        content = found.read_bytes()
        tree[path] = cpio.File(content, 0o755)
        needs = read_needs(content)
        if needs is None:
            continue
        if needs.interpreter is not None:
            todo.append(merged(PurePosixPath(needs.interpreter)))
        for soname in set(needs.libraries) - libraries:
            libraries.add(soname)
            places = [PurePosixPath(folder, soname) for folder in LIBRARY_FOLDERS]
            place = next((place for place in places if _inside(root, place) is not None), None)
            if place is None:
                raise ConfigError(
                    f"/{path} needs {soname}, which no package of the recipe brings: add the one that does"
                )
            todo.append(place)
    return tree


def _inside(root: Path, path: PurePosixPath) -> Path | None:
    """The file at `path` below the root, its links followed as the guest will: an absolute one starts at the root."""
    for _ in range(MOST_LINKS):
        if not (root / path).is_symlink():
            return root / path if (root / path).is_file() else None
        target = PurePosixPath(os.path.normpath(path.parent / (root / path).readlink()))
        path = merged(target)
    return None
