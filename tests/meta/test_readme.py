"""Every command in a code block of the README exists, with the options it is shown with."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.meta.tree import ROOT
from tools.devtool.main import COMMANDS

DOCUMENTS = ("README.md", "tests/README.md")
VBACKEND = Path(sys.executable).parent / "vbackend"


def command_lines() -> Iterator[str]:
    for name in DOCUMENTS:
        for block in re.findall(
            r"^```(?:sh|text|console)?\n(.*?)^```", (ROOT / name).read_text(), re.M | re.S
        ):
            for line in block.splitlines():
                found = re.match(r"(?:[$#] )?(?:sudo )?((?:vbackend|tools/dev)\b.*)", line)
                if found:
                    yield found[1].split(" # ")[0].rstrip()


LINES = sorted(set(command_lines()))


def test_readme_shows_both_commands() -> None:
    assert {"tools/dev demo", "tools/dev test"} <= set(LINES)


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("tools/dev ")])
def test_developer_command(line: str) -> None:
    assert line.split()[1] in COMMANDS


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("vbackend ")])
def test_vbackend_command(line: str) -> None:
    words = line.split(" -- ")[0].split()
    command = [word for word in words[1:3] if re.fullmatch(r"[a-z]+", word)]
    if command[0] not in ("image", "lab"):
        command = command[:1]
    env = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run(
        [VBACKEND, *command, "--help"],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    missing = [option for option in re.findall(r"--[a-z-]+", " ".join(words)) if option not in done.stdout]
    assert not missing, f"`{line}` shows options that do not exist: {missing}"


def test_drop_reasons_are_those_of_the_engine() -> None:
    code = 'from vbackend import _native\nfor pair in _native.drop_reasons(): print("| `%s` | %s |" % pair)'
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    table = (ROOT / "README.md").read_text().split("| dropped because | meaning |\n| --- | --- |\n")[1]
    assert table.split("\n\n")[0].splitlines() == told.splitlines()
