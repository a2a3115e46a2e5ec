"""Lines of keys, form by form. Any document: tests/property/lab/test_locate.py."""

import pytest

from vbackend.lab.locate import key_text, line_of, lines_of

TEXT = '''# a lab
name = "x"
text = """
[no.table]
no = 1
"""
a.b.c = 1   # dotted

[vm.r1]
"two words".'x' = [ 1, # one
  { y = "}", z = 2 },
  "]"
]
[vm]
[[cable]]
ends = 1

[[cable]]
ends = [
  "a",
  "b"]
[cable.forward]
delay = 1979-05-27 07:32:00
'''


@pytest.mark.parametrize(
    ("where", "line"),
    [
        (("name",), 2),
        (("text",), 3),
        (("a", "b", "c"), 7),
        (("vm",), 9),
        (("vm", "r1", "two words", "x", 0), 10),
        (("vm", "r1", "two words", "x", 1, "y"), 11),
        (("vm", "r1", "two words", "x", 1, "z"), 11),
        (("vm", "r1", "two words", "x", 2), 12),
        (("cable",), 15),
        (("cable", 0, "ends"), 16),
        (("cable", 1), 18),
        (("cable", 1, "ends", 0), 20),
        (("cable", 1, "ends", 1), 21),
        (("cable", 1, "forward", "delay"), 23),
        # what is not there has the line of what it would be in
        (("cable", 1, "back"), 18),
        (("vm", "r2"), 9),
        (("nothing",), 1),
        ((), 1),
    ],
)
def test_lines(where: tuple[str | int, ...], line: int) -> None:
    assert line_of(lines_of(TEXT), where) == line


def test_there_are_no_other_ways() -> None:
    assert ("no",) not in lines_of(TEXT)
    assert lines_of("") == {}


def test_keys_are_written_as_in_the_file() -> None:
    assert key_text(("vm", "r1", "files", "/etc/x", 3)) == 'vm.r1.files."/etc/x"[3]'
