"""`vbackend add` beside a served control socket."""

from pathlib import Path

import pytest

from tests.unit.cli.harness import one_line, served, vbackend
from vbackend.errors import HostError


def test_prints_the_new_ports_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    with served(path) as backend:
        outcome = vbackend(capsys, "add", "--control", path, "tap:vb0,name=host")
        assert (outcome.status, outcome.out, outcome.err) == (0, "host\n", "")
        assert backend.ports["host"].where == "tap:vb0"


def test_refusal_of_the_host(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    with served(path) as backend:
        backend.fault = HostError("tap vb0: needs CAP_NET_ADMIN; run as root")
        outcome = vbackend(capsys, "add", "--control", path, "tap:vb0")
    assert one_line(outcome, 1) == "tap vb0: needs CAP_NET_ADMIN; run as root"
