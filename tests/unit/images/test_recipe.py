from pathlib import Path, PurePosixPath

import pytest

from vbackend.errors import ConfigError
from vbackend.images.recipe import RECIPES, find_recipe, list_images, load_recipe, parse_recipe

LEAST = """
description = "d"
kernel = "linux-image-x"
overlay = "o"
memory_mib = 128
cmdline = "quiet"
"""


def test_least_recipe() -> None:
    recipe = parse_recipe(LEAST, "here")
    assert (recipe.busybox, recipe.packages, recipe.modules.load) == ("busybox-static", (), ())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kernel =", "here is not TOML"),
        (LEAST + "colour = 1", "here: colour: Extra inputs"),
        (LEAST.replace('"linux-image-x"', '"rm -rf /"'), "here: kernel: "),
        (LEAST.replace("128", "1"), "here: memory_mib: "),
        (LEAST.replace("memory_mib = 128", ""), "here: memory_mib: Field required"),
        (LEAST + 'programs = ["bin/x"]', "here: programs.0: .*path from the guest's root"),
        (LEAST + 'programs = ["/usr/../etc"]', "here: programs.0: "),
        (LEAST + '[modules]\nload = ["a b"]', "here: modules.load.0: "),
    ],
)
def test_wrong_recipe(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_recipe(text, "here")


def test_recipes_of_the_checkout() -> None:
    assert "small" in list_images()
    for name in list_images():
        recipe = load_recipe(find_recipe(name))
        assert (RECIPES / recipe.overlay).is_dir()
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
