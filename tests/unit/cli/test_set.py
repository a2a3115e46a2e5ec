"""`vbackend set` beside a served control socket."""

from pathlib import Path

import pytest

from tests.unit.cli.harness import one_line, served, vbackend


def test_changes_reach_the_port(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    with served(path) as backend:
        outcome = vbackend(capsys, "set", "a", "down", "queue=9", "queue-bytes=100000", "--control", path)
        assert (outcome.status, outcome.out, outcome.err) == (0, "", "")
        port = backend.ports["a"]
        assert (port.up, port.queue_frames, port.queue_bytes) == (False, 9, 100_000)
        assert vbackend(capsys, "set", "a", "rate=10M", "burst=64k", "--control", path).status == 0
        assert (backend.ports["a"].rate, backend.ports["a"].burst) == (10_000_000, 64_000)
        assert vbackend(capsys, "set", "a", "loss=1%", "seed=7", "--control", path).status == 0
        impairment = backend.ports["a"].impairment
        assert impairment is not None
        assert impairment.settings == {"loss": "1%", "seed": "7"}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["zz", "up"], "there is no port 'zz'; there are a, b"),
        (["a", "queue=0"], "port-set: argument 'queue': "),
    ],
)
def test_refusals_are_bad_arguments(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], text: str
) -> None:
    path = str(tmp_path / "x")
    with served(path):
        assert one_line(vbackend(capsys, "set", *words, "--control", path), 2).startswith(text)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--forward"], "set: --forward and --back are the directions of a cable; a cable needs --lab LAB"),
        (["--back"], "set: --forward and --back are the directions of a cable; a cable needs --lab LAB"),
        (["--lab", "x", "--name", "y"], "--lab: a lab has its own control socket; leave --name and --cont"),
        (["--lab", "x", "--control", "y"], "--lab: a lab has its own control socket; leave --name and --c"),
    ],
)
def test_options_that_do_not_go_together(
    capsys: pytest.CaptureFixture[str], words: list[str], text: str
) -> None:
    assert one_line(vbackend(capsys, "set", "a", "up", *words), 2).startswith(text)
