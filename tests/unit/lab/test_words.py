"""Single values of lab files. Whole files: test_load.py."""

import pytest

from vbackend.lab.words import QUANTITIES, end_name, is_vm_end, seconds, split_end


@pytest.mark.parametrize(
    ("text", "found"), [("90", 90), ("90s", 90), ("30m", 1800), ("2min", 120), ("1h", 3600), ("2d", 172_800)]
)
def test_seconds(text: str, found: int) -> None:
    assert seconds(text) == found


@pytest.mark.parametrize(
    ("end", "of_vm", "name"),
    [
        ("r1:eth0", True, "r1:eth0"),
        ("tap:lab0", False, "lab0"),
        ("stream:unix:/tmp/a.sock", False, "a"),
        ("stream:unix:/tmp/a.sock,name=b", False, "b"),
    ],
)
def test_ends(end: str, of_vm: bool, name: str) -> None:
    assert is_vm_end(end) is of_vm
    assert end_name(end) == name


@pytest.mark.parametrize("text", ["", "-1", "1.5s", "1w", "s", "1 h", "٣"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="whole seconds"):
        seconds(text)


def test_vm_and_nic() -> None:
    assert split_end("r1:eth0.7") == ("r1", "eth0.7")


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("delay", "5ms", "5"),
        ("loss", "1%", "101%"),
        ("rate", "10M", "fast"),
        ("burst", "64k", ""),
        ("queue", "1", "0"),
    ],
)
def test_quantities(key: str, good: str, bad: str) -> None:
    QUANTITIES[key](good)
    with pytest.raises(ValueError, match=key):
        QUANTITIES[key](bad)
