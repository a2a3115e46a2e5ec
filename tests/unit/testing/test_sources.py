"""vbackend/testing/sources.py: what a test may call a lab, and the names of what is run."""

from pathlib import Path

import pytest

from vbackend.errors import ConfigError
from vbackend.lab.model import Lab
from vbackend.testing.sources import Source, content, read_source, renamed

TEXT = '[[cable]]\nname = "core"\nends = ["stream:unix:a.sock,name=a", "unit:b.sock"]\n'


def test_all_kinds_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text(TEXT)
    mapping = {"cable": [{"name": "core", "ends": ["stream:unix:a.sock,name=a", "unit:b.sock"]}]}
    first = read_source("two.toml", tmp_path)
    assert first.name == "two"
    others: list[Source] = [
        TEXT,
        tmp_path / "two.toml",
        Path("two.toml"),
        mapping,
        first,
        str(tmp_path / "two.toml"),
    ]
    for each in others:
        lab = read_source(each, tmp_path)
        assert content(lab) == content(first)
    assert read_source(TEXT, tmp_path).name == "lab"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("nowhere.toml", "nowhere.toml: cannot be read"),
        ("x = 1", "<lab>:1: x:"),
        ({"x": 1}, "<lab>: x:"),
        (7, "7 is neither a file, TOML text, a mapping nor a Lab"),
    ],
)
def test_what_is_none(tmp_path: Path, source: Source, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        read_source(source, tmp_path)


@pytest.mark.parametrize(
    ("name", "suffix", "renamed_to"),
    [
        ("two", "3", "two-3"),
        ("a" * 20, "gw112", "a" * 14 + "-gw112"),
        ("aaaaaaaaaaaa-bcdefgh", "gw112", "aaaaaaaaaaaa-b-gw112"),
        ("aaaaaaaaaaaaa-cdefgh", "gw112", "aaaaaaaaaaaaa-gw112"),
    ],
)
def test_names(name: str, suffix: str, renamed_to: str) -> None:
    found = renamed(Lab(name=name), suffix, sockets_of=Path("/x"), sockets_in=Path("/y"))
    assert found.name == renamed_to


def test_sockets_lie_in_the_labs_own_folder(tmp_path: Path) -> None:
    lab = read_source(TEXT, tmp_path)
    found = renamed(lab, "1", sockets_of=tmp_path, sockets_in=Path("/tmp/vb"))
    assert found.cable[0].ends == ("stream:unix:/tmp/vb/a.sock,name=a", "unit:/tmp/vb/b.sock")
    assert found.cable[0].name == "core"
