"""The table of README.md cannot drift: its rules are all rules, its tests those that are marked with them."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

from tests.conformance.tun4.rules import RULES, rules_of

HERE = Path(__file__).parent
ROW = re.compile(r"\| (?P<id>[A-Z]\d) \| (?P<says>[^|]+) \| (?P<tests>[^|]+) \|")
FILES = re.compile(r"`(test_\w+)`: ([^;|]+)")


def marked() -> Iterator[tuple[str, str]]:
    """(rule, "file::test") of every test of this folder that is marked with the rule."""
    for path in sorted(HERE.glob("test_*.py")):
        module = importlib.import_module(f"{__package__}.{path.stem}")
        for name, test in vars(module).items():
            if name.startswith("test_"):
                yield from ((each, f"{path.stem}::{name}") for each in rules_of(test))


def rows() -> list[re.Match[str]]:
    found = [ROW.fullmatch(line) for line in (HERE / "README.md").read_text().splitlines()]
    return [row for row in found if row]


def test_every_rule_has_its_row_in_order() -> None:
    assert [row["id"] for row in rows()] == RULES


def test_the_tests_of_each_row_are_those_marked_with_its_rule() -> None:
    expected: dict[str, set[str]] = {each: set() for each in RULES}
    for each, test in marked():
        expected[each].add(test)
    assert all(expected.values()), [each for each, tests in expected.items() if not tests]
    for row in rows():
        named = {
            f"{file}::{name}"
            for file, names in FILES.findall(row["tests"])
            for name in re.findall(r"`(test_\w+)`", names)
        }
        assert named == expected[row["id"]], row["id"]


def test_names_show_a_rule_that_they_are_marked_with() -> None:
    """test_x1_...: the ids that a name begins with are among its rules."""
    shown = re.compile(r"test_((?:[a-z]\d_)+)")
    found: dict[str, set[str]] = {}
    for each, test in marked():
        found.setdefault(test, set()).add(each)
    for test, ids in found.items():
        if match := shown.match(test.split("::")[1]):
            assert {each.upper() for each in match[1].strip("_").split("_")} <= ids, test
