"""`vbackend graph`: pictures of lab files."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.unit.cli.harness import one_line, vbackend


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "two.toml"
    path.write_text("[vm.a]\nkernel = 'not there'\n[[cable]]\nends = ['a:eth0', 'tap:t']\n")
    return str(path)


def test_svg(capsys: pytest.CaptureFixture[str], file: str) -> None:
    outcome = vbackend(capsys, "graph", file)
    assert (outcome.status, outcome.err) == (0, "")
    assert ElementTree.fromstring(outcome.out).tag.endswith("svg")


def test_mermaid(capsys: pytest.CaptureFixture[str], file: str) -> None:
    outcome = vbackend(capsys, "graph", file, "--format", "mermaid")
    assert outcome.out.splitlines()[:4] == ["---", "title: two", "---", "flowchart LR"]


def test_errors(capsys: pytest.CaptureFixture[str], tmp_path: Path, file: str) -> None:
    assert "cannot be read" in one_line(vbackend(capsys, "graph", str(tmp_path / "x")), 2)
    assert "'gif'" in one_line(vbackend(capsys, "graph", file, "--format", "gif"), 2)
