"""Builds guest images: packages in, a kernel and an initramfs out.

The order is that of the work: recipe, packages and their versions, key, cache; only when the cache has nothing,
download, unpack, pick, write. The initramfs is not compressed: unpacking it in an emulated guest would take longer
than reading it.
"""

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from vbackend.errors import ConfigError
from vbackend.images import cpio
from vbackend.images.apt import Apt, AptError, Package, follow, unpack
from vbackend.images.cache import ImageCache, content_key, default_cache
from vbackend.images.recipe import Recipe, find_recipe, load_recipe
from vbackend.images.root import Tree, make_root, read_overlay, root_tree

__all__ = ["BuiltImage", "build_image"]

FORMAT: Final = "1"  # part of the key: another builder makes another image
KERNEL, INITRD, CONTENTS = "vmlinuz", "initrd.cpio", "contents.json"

PACKAGES: Final = TypeAdapter(list[Package])

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """An image in the cache. Its files may be removed by a later build after a month without use."""

    name: str
    folder: Path
    kernel: Path
    initrd: Path
    cmdline: str
    memory_mib: int
    packages: tuple[str, ...]  # name=version

    def __str__(self) -> str:
        return str(self.folder)

    def boot_arguments(self, hostname: str) -> list[str]:
        """QEMU arguments that boot it: memory, kernel, initramfs and command line."""
        cmdline = f"{self.cmdline} hostname={hostname}"
        kernel = ["-kernel", str(self.kernel), "-initrd", str(self.initrd), "-append", cmdline]
        return ["-m", str(self.memory_mib), *kernel]


def build_image(name: str, *, progress: Progress | None = None, cache_dir: Path | None = None) -> BuiltImage:
    """Build the image of a recipe, or take it from the cache when nothing that goes into it has changed.

    `name` is a recipe of the checkout or a path to one; `progress` is told in a few words what is being done.
    Blocks for seconds when the image is in the cache, for half a minute when not. Raises ConfigError (the recipe)
    and HostError (no apt, no package lists, no network, no space) with what to do.
    """
    say = progress or (lambda _: None)
    path = find_recipe(name)
    recipe = load_recipe(path)
    overlay: Tree = {}
    for folder in recipe.overlay:
        overlay |= read_overlay(folder)
    cache = ImageCache(cache_dir or default_cache())
    title = path.stem

    say("looking packages up")
    system, private = Apt(), Apt(cache.root / "apt")
    try:
        packages, apt = _look_up(title, recipe, system, cache), system
    except AptError:
        with cache.lock(".apt"):
            if not private.has_lists():
                say("fetching package lists")
                private.update()
        packages, apt = _look_up(title, recipe, private, cache), private
    key = _key(recipe, overlay, packages)
    found = cache.find(title, key, time.time())
    if found is None:
        with cache.lock(title):
            found = cache.find(title, key, time.time())  # another process may have built it meanwhile
            if found is None:
                found = _build(_Order(title, recipe, overlay, say), packages, apt, private, cache)
                cache.prune(title, time.time())
    return _image(title, recipe, found)


def resolve(recipe: Recipe, apt: Apt) -> list[Package]:
    """The packages an image is made of, with the versions apt offers; sorted. AptError when one is unknown."""
    wanted = re.compile(r"lib|linux-image-\d")
    roots = [recipe.kernel, recipe.busybox, *recipe.packages]
    return follow(roots, lambda name: wanted.match(name) is not None, apt.show)


def _look_up(title: str, recipe: Recipe, apt: Apt, cache: ImageCache) -> list[Package]:
    """As `resolve`, which takes seconds where apt keeps no cache; an answer is good until the lists change.

    Noted for each image, so that a lab of several looks none of them up again.
    """
    roots = " ".join([recipe.kernel, recipe.busybox, *recipe.packages])
    key = content_key([("roots", roots.encode()), ("lists", apt.state())])
    name = f"{title}-{'system' if apt.private is None else 'private'}"
    noted = cache.recall(name, key)
    if noted is not None:
        return PACKAGES.validate_json(noted)
    packages = resolve(recipe, apt)
    cache.remember(name, key, PACKAGES.dump_json(packages).decode())
    return packages


@dataclass(frozen=True, slots=True)
class _Order:
    name: str
    recipe: Recipe
    overlay: Tree
    say: Progress


def _key(recipe: Recipe, overlay: Tree, packages: Sequence[Package]) -> str:
    parts = [("format", FORMAT.encode()), ("recipe", recipe.model_dump_json(exclude={"overlay"}).encode())]
    parts += [(str(path), repr(entry).encode()) for path, entry in sorted(overlay.items())]
    parts += [("package", str(package).encode()) for package in packages]
    return content_key(parts)


def _build(order: _Order, packages: Sequence[Package], apt: Apt, private: Apt, cache: ImageCache) -> Path:
    """Build and publish. Versions that the system's lists name but the archive no longer has are looked up again."""
    wanted = key = _key(order.recipe, order.overlay, packages)
    with cache.workspace() as work:
        try:
            order.say(f"downloading {len(packages)} packages")
            archives = apt.download(packages, work / "deb")
        except AptError:
            order.say("fetching newer package lists")
            with cache.lock(".apt"):
                private.update()
            packages = resolve(order.recipe, private)
            key = _key(order.recipe, order.overlay, packages)
            found = cache.find(order.name, key, time.time())
            if found is not None:
                cache.link(order.name, wanted, key)
                return found
            order.say(f"downloading {len(packages)} packages")
            archives = private.download(packages, work / "newer")
        folder = _assemble(order, packages, archives, work)
        found = cache.publish(folder, order.name, key)
        if key != wanted:
            cache.link(order.name, wanted, key)
        return found


def _assemble(order: _Order, packages: Sequence[Package], archives: Sequence[Path], work: Path) -> Path:
    order.say("unpacking")
    root = work / "root"
    make_root(root)
    for archive in archives:
        unpack(archive, root)
        archive.unlink()
    order.say("writing the initramfs")
    kernels = sorted((root / "boot").glob("vmlinuz-*"))
    if len(kernels) != 1:
        raise ConfigError(f"package {order.recipe.kernel} leads to {len(kernels)} kernels, not one")
    release = kernels[0].name.removeprefix("vmlinuz-")
    tree = root_tree(root, release, order.recipe) | order.overlay
    built = work / "image"
    built.mkdir()
    kernels[0].rename(built / KERNEL)
    (built / INITRD).write_bytes(cpio.newc(tree))
    contents = {"packages": [str(package) for package in packages], "kernel": release}
    (built / CONTENTS).write_text(json.dumps(contents, indent=1) + "\n")
    return built


def _image(name: str, recipe: Recipe, folder: Path) -> BuiltImage:
    packages = tuple(json.loads((folder / CONTENTS).read_text())["packages"])
    return BuiltImage(
        name, folder, folder / KERNEL, folder / INITRD, recipe.cmdline, recipe.memory_mib, packages
    )
