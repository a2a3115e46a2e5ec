"""`vbackend up`, `down`, `plan`, `apply`, `ps`, with daemons of their own; the labs have no VMs."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lab_run import Labs, lab_runtime
from tests.unit.cli.harness import one_line, vbackend
from vbackend.control import place
from vbackend.lab import client


@pytest.fixture
def labs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Labs]:
    with lab_runtime() as found:
        for key in ("XDG_RUNTIME_DIR", "PYTHONPATH"):
            monkeypatch.setenv(key, found.environ[key])
        yield found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "two.toml"
    path.write_text(f'[switch.lan]\nports = ["stream:unix:{tmp_path}/a,name=a"]\n')
    return path


def test_a_life(capsys: pytest.CaptureFixture[str], labs: Labs, file: Path) -> None:
    planned = vbackend(capsys, "plan", str(file))
    assert (planned.status, planned.out) == (0, "+ switch lan\n+ lan: a\n")
    started = vbackend(capsys, "up", str(file))
    assert (started.status, started.out) == (0, "")
    assert "+ lan: a" in started.err
    assert vbackend(capsys, "plan", str(file)).out == ""
    assert "lab two  0 VMs  1 links" in vbackend(capsys, "ps").out
    (status,) = json.loads(vbackend(capsys, "ps", "two", "--json").out)
    assert status["links"][0]["title"] == "lan/a"
    assert vbackend(capsys, "graph", "two", "--live", "--format", "mermaid").status == 0

    file.write_text("[switch.lan]\n[switch.more]\n")
    assert vbackend(capsys, "plan", str(file)).out == "- lan: a\n+ switch more\n"
    assert vbackend(capsys, "apply", str(file)).status == 0
    file.write_text(f'[switch.lan]\nports = ["stream:unix:{file.parent}/busy"]\n')
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{file.parent}/busy")
        other.listen()
        failed = vbackend(capsys, "apply", str(file))
    assert failed.status == 1
    assert "what was done before is undone" in failed.err.splitlines()[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, "lab_names", lambda _: ["odd", "two", "strange"])
        patch.setattr(client, "is_served", lambda *_: True)
        for words in ((), ("--json",)):
            seen = vbackend(capsys, "ps", *words)
            assert "two" in seen.out
            assert (seen.status, ["odd" in line for line in seen.err.splitlines()]) == (1, [False, True])

    labs.kill_daemon("two")
    assert "its daemon is dead; no guest runs" in vbackend(capsys, "ps").out
    assert vbackend(capsys, "up", "two").status == 0
    assert vbackend(capsys, "down", str(file)).status == 0
    assert not labs.left()


@pytest.mark.usefixtures("labs")
def test_what_does_not_run(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    assert one_line(vbackend(capsys, "down", str(file)), 2) == "lab 'two' does not run"
    assert "start it with `vbackend up" in one_line(vbackend(capsys, "apply", str(file)), 2)
    assert "neither a lab file nor a lab that runs" in one_line(vbackend(capsys, "up", "two"), 2)
    assert vbackend(capsys, "ps").out == ""
