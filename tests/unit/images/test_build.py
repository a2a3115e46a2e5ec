import json
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from tests.unit.images.repository import RECIPE, RELEASE, Repository
from vbackend.errors import ConfigError
from vbackend.images import BuiltImage, build_image
from vbackend.images.apt import Apt, AptError


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    (tmp_path / "overlay/etc").mkdir(parents=True)
    (tmp_path / "overlay/etc/inittab").write_text("::sysinit:/sbin/rc\n")
    return path


class Builder:
    """Builds one recipe into one cache and remembers what was said."""

    def __init__(self, recipe: Path, cache: Path) -> None:
        self._recipe, self._cache = recipe, cache
        self.said: list[str] = []

    def __call__(self) -> BuiltImage:
        self.said.clear()
        return build_image(str(self._recipe), progress=self.said.append, cache_dir=self._cache)

    @property
    def worked(self) -> bool:
        return "writing the initramfs" in self.said


@pytest.fixture
def build(recipe: Path, tmp_path: Path) -> Builder:
    return Builder(recipe, tmp_path / "cache")


def members(image: BuiltImage) -> set[str]:
    if shutil.which("cpio") is None:
        pytest.skip("needs cpio: apt-get install cpio")
    with image.initrd.open("rb") as archive:
        told = subprocess.run(["cpio", "-it", "--quiet"], stdin=archive, capture_output=True, check=True)
    return set(told.stdout.decode().splitlines())


def test_image_holds_what_the_recipe_says(repository: Repository, build: Builder) -> None:
    repository.fill()
    repository.update_system()
    image = build()
    assert image.kernel.read_bytes() == b"kernel 1"
    assert image.boot_arguments("alice") == [
        *("-m", "128", "-kernel", str(image.kernel), "-initrd", str(image.initrd)),
        *("-append", "quiet hostname=alice"),
    ]
    assert str(image) == str(image.folder)
    assert image.packages == (
        *("busybox-test=1", "libtool-test=1", "linux-image-6.0-test=1", "linux-image-test=1", "tool=1"),
    )
    assert json.loads((image.folder / "contents.json").read_text())["kernel"] == RELEASE
    inside = members(image)
    home = f"usr/lib/modules/{RELEASE}"
    assert inside >= {
        *(
            "usr/bin/tool",
            "usr/lib/x86_64-linux-gnu/libc.so.6",
            "usr/lib64/ld-linux-x86-64.so.2",
            "etc/inittab",
        ),
        *(
            "usr/bin/ls",
            "usr/sbin/init",
            f"{home}/kernel/virtio_net.ko",
            f"{home}/kernel/virtio.ko",
            "etc/modules",
        ),
    }
    assert not inside & {f"{home}/kernel/unwanted.ko", "usr/share/doc/tool", "boot"}


def test_built_once_and_again_when_anything_changes(
    repository: Repository, build: Builder, recipe: Path
) -> None:
    repository.fill()
    repository.update_system()
    first = build()
    assert build.worked
    assert build() == first
    assert build.said == ["looking packages up"]

    recipe.write_text(RECIPE.replace('"quiet"', '"loud"'))
    second = build()
    assert build.worked
    (recipe.parent / "overlay/etc/inittab").chmod(0o755)
    third = build()
    assert build.worked
    repository.add("tool", "2", {"usr/bin/tool": b"#!/bin/sh\n"})
    repository.update_system()
    fourth = build()
    assert build.worked
    assert len({image.folder for image in (first, second, third, fourth)}) == 4
    assert "tool=2" in fourth.packages

    recipe.write_text(RECIPE)
    (recipe.parent / "overlay/etc/inittab").chmod(0o644)
    build()
    assert build.worked, "the tool is another one than at first"


def test_two_images_are_each_looked_up_once(
    repository: Repository, build: Builder, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One extends the other, and has what it says over it."""
    repository.fill()
    repository.update_system()
    (recipe.parent / "more/etc").mkdir(parents=True)
    (recipe.parent / "more/etc/rc.local").write_text("#!/bin/sh\n")
    more = recipe.parent / "more.toml"
    more.write_text('extends = "tiny"\noverlay = "more"\nmemory_mib = 256\n')
    build_more = Builder(more, recipe.parent / "cache")
    first, second = build(), build_more()
    assert members(second) - members(first) == {"etc/rc.local"}
    assert second.memory_mib == 256

    monkeypatch.setattr(Apt, "show", None)
    assert (build(), build_more()) == (first, second)


def test_without_package_lists_private_ones_are_fetched(repository: Repository, build: Builder) -> None:
    repository.fill()
    image = build()
    assert build.said[:2] == ["looking packages up", "fetching package lists"]
    assert "tool=1" in image.packages
    assert build() == image
    assert build.said == ["looking packages up"]


def test_packages_that_left_the_archive(repository: Repository, build: Builder) -> None:
    """Lists that are older than the archive: newer ones are fetched once, and what they led to is remembered."""
    repository.fill()
    repository.update_system()
    repository.add("tool", "2", {"usr/bin/tool": b"#!/bin/sh\n"})
    (repository.archive / "tool_1_all.deb").unlink()
    image = build()
    assert "fetching newer package lists" in build.said
    assert "tool=2" in image.packages
    assert build() == image
    assert build.said == ["looking packages up"]
    repository.update_system()
    assert build() == image
    assert not build.worked


def test_archive_that_is_gone(repository: Repository, build: Builder) -> None:
    repository.fill()
    repository.update_system()
    shutil.rmtree(repository.archive)
    with pytest.raises(AptError, match="apt-get update into"):
        build()


def test_unknown_package(repository: Repository, build: Builder, recipe: Path) -> None:
    repository.fill()
    recipe.write_text(RECIPE.replace('["tool"]', '["tool", "nonsense"]'))
    with pytest.raises(AptError, match="no package to download named nonsense"):
        build()


def test_failed_build_leaves_nothing_behind(
    repository: Repository, build: Builder, recipe: Path, tmp_path: Path
) -> None:
    repository.fill()
    recipe.write_text(RECIPE.replace("/usr/bin/tool", "/usr/bin/missing"))
    with pytest.raises(ConfigError, match="no package of the recipe holds /usr/bin/missing"):
        build()
    left = [path.name for path in (tmp_path / "cache/images").iterdir()]
    assert not [name for name in left if not name.endswith((".lock", ".note"))]


def test_two_builds_at_once(repository: Repository, recipe: Path, tmp_path: Path) -> None:
    """One builds, the other waits and takes it."""
    repository.fill()
    builders = [Builder(recipe, tmp_path / "cache") for _ in range(2)]
    images: list[BuiltImage] = []
    threads = [threading.Thread(target=lambda each=each: images.append(each())) for each in builders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(images) == 2
    assert images[0] == images[1]
    assert sorted(each.worked for each in builders) == [False, True]
