"""`vbackend show` beside a served control socket."""

import json
from pathlib import Path

import pytest

from tests.unit.cli.harness import served, vbackend
from tests.unit.control.fakes import FakeBackend, port
from vbackend.snapshot import BackendSnapshot


def test_json_is_the_snapshot(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    with served(path):
        outcome = vbackend(capsys, "show", "--json", "--control", path)
    assert (outcome.status, outcome.err) == (0, "")
    assert BackendSnapshot.model_validate(json.loads(outcome.out)) == FakeBackend().snapshot()


def test_names_of_files_need_not_be_text(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    with served(path) as backend:
        backend.ports["a"] = port("a", "stream:unix:/tmp/\udcff.sock")
        outcome = vbackend(capsys, "show", "--json", "--control", path)
    assert (outcome.status, outcome.err) == (0, "")
    assert json.loads(outcome.out)["ports"][0]["where"] == "stream:unix:/tmp/\udcff.sock"


def test_text_by_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with served(str(tmp_path / "vbackend" / "lab.sock")):
        outcome = vbackend(capsys, "show", "--name", "lab")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.startswith("switch default  pid 4711, ")
    for word in ("PORTS", "TRAFFIC", "LEARNED ADDRESSES", "stream:unix:/tmp/b.sock"):
        assert word in outcome.out
