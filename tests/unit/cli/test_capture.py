"""`vbackend capture` beside a served control socket."""

import os
import pty
import subprocess
from pathlib import Path

import pytest

from tests.support.pcapng import parse, read
from tests.support.run import VBACKEND
from tests.unit.cli.harness import one_line, served, vbackend


def test_to_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path, file = str(tmp_path / "x"), tmp_path / "f"
    options = (
        "--filter",
        "ip",
        "--snaplen",
        "96",
        "--count",
        "2",
        "--unit-link",
        "loop",
        "-w",
        str(file),
        "--control",
        path,
    )
    with served(path) as backend:
        outcome = vbackend(capsys, "capture", "a", "b", *options)
        assert backend.captures == [("ip", 96, 2, "loop")]
    assert (outcome.status, outcome.out, outcome.err) == (0, "", "2 packets captured, 3 lost\n")
    found = read(file)
    assert [one.name for one in found.interfaces] == ["a", "b"]
    assert len(found.packets) == 2


@pytest.mark.parametrize("write", [[], ["-w", "-"]])
def test_to_stdout(tmp_path: Path, write: list[str]) -> None:
    path = str(tmp_path / "x")
    with served(path):
        done = subprocess.run(
            [*VBACKEND, "capture", *write, "--count", "2", "--control", path],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, b"2 packets captured, 3 lost\n")
    assert len(parse(done.stdout).packets) == 2


def test_a_terminal_is_no_place_for_packets() -> None:
    ours, terminal = pty.openpty()
    try:
        done = subprocess.run(
            [*VBACKEND, "capture", "a"],
            stdin=subprocess.DEVNULL,
            stdout=terminal,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(terminal)
    assert done.returncode == 2
    assert done.stderr == (
        "vbackend: capture: stdout is a terminal; give -w FILE, or pipe to `wireshark -k -i -`\n"
    )


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["zz"], "there is no port 'zz'; there are a, b"),
        (["--count", "0"], "capture-start: argument 'count': "),
        (["--snaplen", "0"], "capture-start: argument 'snaplen': "),
    ],
)
def test_refusals_are_bad_arguments(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], text: str
) -> None:
    path = str(tmp_path / "x")
    with served(path):
        arguments = ("capture", *words, "-w", str(tmp_path / "f"), "--control", path)
        assert one_line(vbackend(capsys, *arguments), 2).startswith(text)
    assert not (tmp_path / "f").exists()


def test_a_file_that_cannot_be_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    with served(path):
        outcome = vbackend(capsys, "capture", "--count", "1", "-w", f"{tmp_path}/no/f", "--control", path)
        assert one_line(outcome, 1) == f"{tmp_path}/no/f: No such file or directory"


def test_a_disk_that_is_full(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    with served(path):
        outcome = vbackend(capsys, "capture", "--count", "2", "-w", "/dev/full", "--control", path)
    assert one_line(outcome, 1) == "/dev/full: cannot write all of the capture: No space left on device"


def test_links_of_a_lab(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    control = tmp_path / "vbackend" / "labs" / "pair" / "control.sock"
    control.parent.mkdir(parents=True)
    with served(str(control)) as backend:
        for words, links in (([], []), (["a", "b"], ["a", "b"])):
            arguments = ("capture", "--lab", "pair", *words, "--count", "2", "-w", str(tmp_path / "f"))
            assert vbackend(capsys, *arguments).status == 0
            assert backend.links[-1] == links
        listed = vbackend(capsys, "capture", "--lab", "pair", "--interfaces").out.splitlines()
        ports = vbackend(capsys, "capture", "--control", str(control), "--interfaces").out.splitlines()
        one = vbackend(capsys, "capture", "--control", str(control), ports[1].split()[0], "--interfaces")
        missing = vbackend(capsys, "capture", "--lab", "pair", "core", "default/a", "--interfaces")
    assert listed[:2] == ["default/a  a → default", "default/a  default → a"]
    assert ports[0] == "a  stream:unix:/tmp/a.sock"
    assert one.out.splitlines() == ports[1:2]
    assert one_line(missing, 2) == "there is no link 'core' to capture"
    wrong = vbackend(capsys, "capture", "--lab", "pair", "--control", "/x", "-w", str(tmp_path / "f"))
    assert one_line(wrong, 2).startswith("--lab: a lab has its own control socket")
