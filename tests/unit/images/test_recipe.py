from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from vbackend.errors import ConfigError
from vbackend.images.recipe import Modules, extended, find_recipe, list_images, load_recipe

LEAST = """
description = "d"
kernel = "linux-image-x"
overlay = "o"
memory_mib = 128
cmdline = "quiet"
"""


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


def test_least_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, "here", LEAST))
    assert (recipe.busybox, recipe.packages, recipe.modules.load) == ("busybox-static", (), ())
    assert recipe.overlay == (tmp_path / "o",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kernel =", r"here\.toml is not TOML"),
        (LEAST + "colour = 1", r"here\.toml: colour: Extra inputs"),
        (LEAST.replace('"linux-image-x"', '"rm -rf /"'), r"here\.toml: kernel: "),
        (LEAST.replace("128", "1"), r"here\.toml: memory_mib: "),
        (LEAST.replace("memory_mib = 128", ""), r"here\.toml: memory_mib: Field required"),
        (LEAST.replace('overlay = "o"', ""), r"here\.toml: overlay: Field required"),
        (LEAST + 'programs = ["bin/x"]', r"here\.toml: programs.0: .*path from the guest's root"),
        (LEAST + 'programs = ["/usr/../etc"]', r"here\.toml: programs.0: "),
        (LEAST + '[modules]\nload = ["a b"]', r"here\.toml: modules.load.0: "),
        (LEAST.replace('"o"', '["o"]'), r"here\.toml: overlay: must be text"),
        (LEAST + "extends = 1", r"here\.toml: extends: must be text"),
        (LEAST + 'extends = "here"', r"recipes extend each other: .*here\.toml"),
        (LEAST + 'extends = "nothing"', r"no image recipe 'nothing'"),
    ],
)
def test_wrong_recipe(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_recipe(written(tmp_path, "here", text))


def test_extending(tmp_path: Path) -> None:
    """Beside the file comes before the checkout's; the base's paths stay relative to the base."""
    written(tmp_path, "base", LEAST + 'packages = ["a1"]\n[modules]\nload = ["m1"]')
    more = (
        'extends = "base"\npackages = ["b2"]\nmemory_mib = 256\noverlay = "p"\n[modules]\navailable = ["m2"]'
    )
    recipe = load_recipe(written(tmp_path, "more", more))
    assert (recipe.packages, recipe.memory_mib, recipe.cmdline) == (("a1", "b2"), 256, "quiet")
    assert recipe.modules == Modules(load=("m1",), available=("m2",))
    assert recipe.overlay == (tmp_path / "o", tmp_path / "p")

    small = load_recipe(find_recipe("small"))
    assert load_recipe(written(tmp_path, "mine", 'extends = "small"')) == small


@pytest.mark.parametrize(
    ("base", "own", "joined"),
    [
        ({}, {"a": 1}, {"a": 1}),
        ({"a": 1}, {"a": 2}, {"a": 2}),
        ({"a": [1]}, {"a": [2]}, {"a": [1, 2]}),
        ({"a": [1]}, {"a": "x"}, {"a": "x"}),
        ({"t": {"a": [1], "b": 1}}, {"t": {"a": [2], "c": 3}}, {"t": {"a": [1, 2], "b": 1, "c": 3}}),
    ],
)
def test_extended(base: dict[str, Any], own: dict[str, Any], joined: dict[str, Any]) -> None:
    assert extended(base, own) == joined


def test_recipes_of_the_checkout() -> None:
    assert {"router", "small"} <= set(list_images())
    for name in list_images():
        recipe = load_recipe(find_recipe(name))
        assert all(folder.is_dir() for folder in recipe.overlay)
        assert PurePosixPath("/usr/bin/iperf3") in recipe.programs


def test_find_by_path_and_by_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(LEAST)
    assert find_recipe(str(path)) == path
    assert find_recipe("mine", tmp_path) == path


def test_unknown_names_say_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'nothing'; known: .*small"):
        find_recipe("nothing")
    with pytest.raises(ConfigError, match="give the path"):
        find_recipe("nothing", tmp_path / "no-checkout")


def test_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="cannot read image recipe"):
        load_recipe(path)
