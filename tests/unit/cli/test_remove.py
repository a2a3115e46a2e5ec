"""`vbackend remove` beside a served control socket."""

from pathlib import Path

import pytest

from tests.unit.cli.harness import one_line, served, vbackend


def test_removes_the_port(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    with served(path) as backend:
        outcome = vbackend(capsys, "remove", "a", "--control", path)
        assert (outcome.status, outcome.out, outcome.err) == (0, "", "")
        assert list(backend.ports) == ["b"]
        again = vbackend(capsys, "remove", "a", "--control", path)
    assert one_line(again, 2) == "there is no port 'a'; there are b"
