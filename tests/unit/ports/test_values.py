"""The limits of single values, at and one past each."""

import pytest

from vbackend.ports import values
from vbackend.ports.spec import TcpAddress, UnixAddress


@pytest.mark.parametrize(
    ("text", "good"), [("1", True), ("9", True), ("0", False), ("10", False), ("", False), ("+5", False)]
)
def test_numbers_have_two_limits(text: str, good: bool) -> None:
    read = values.number(1, 9)
    if good:
        assert read("n", text) == int(text)
    else:
        with pytest.raises(ValueError, match=r"n is .*from 1 to 9"):
            read("n", text)


def test_a_unix_path_is_measured_in_bytes() -> None:
    assert values.unix_address("p", "é" * 53) == UnixAddress("é" * 53)
    with pytest.raises(ValueError, match="p is 108 bytes"):
        values.unix_address("p", "é" * 54)


def test_one_of_these_words_and_nothing_like_it() -> None:
    read = values.one_of(("none", "null"))
    assert (read("header", "none"), read("header", "null")) == ("none", "null")
    for text in ("", "nul", "NULL", "none,null"):
        with pytest.raises(ValueError, match=r"header is .*; give one of none, null"):
            read("header", text)


def test_hosts_and_ports_come_in_pairs() -> None:
    found = values.host_ports("F", "[::1]:1:[::2]:2", pairs=2)
    assert found == [TcpAddress("::1", 1), TcpAddress("::2", 2)]


def test_a_strange_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="not an IPv6 address"):
        values.host_ports("F", "[fe80::1%a\nb]:1", pairs=1)
