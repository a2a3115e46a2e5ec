"""`vbackend lab`: check and schema."""

import json
from pathlib import Path

import pytest

from tests.unit.cli.harness import vbackend


def test_check(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "two.toml"
    file.write_text(
        "[vm.a]\nimage = 'small'\n[vm.b]\nimage = 'small'\n[switch.s]\n[switch.t]\n[[capture]]\nfile = 'x'\n"
    )
    outcome = vbackend(capsys, "lab", "check", str(file))
    assert (outcome.status, outcome.out, outcome.err) == (
        0,
        "two: 2 VMs, 2 switches, 0 cables, 1 capture\n",
        "",
    )


def test_all_complaints(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "two.toml"
    file.write_text("[vm.a]\nimage = 5\ncpu = 1\n")
    outcome = vbackend(capsys, "lab", "check", str(file))
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.splitlines() == [
        f"{file}:2: vm.a.image: found the integer 5, expected a string",
        f"{file}:3: vm.a.cpu: there is no such key; did you mean 'cpus'?",
    ]


def test_schema(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = vbackend(capsys, "lab", "schema")
    assert (outcome.status, outcome.err) == (0, "")
    assert "cable" in json.loads(outcome.out)["properties"]
