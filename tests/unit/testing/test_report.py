"""vbackend/testing/report.py: what a failed test leaves, of a lab that lives and of one that does not."""

from pathlib import Path

from tests.support.frames import BROADCAST, frame, mac
from vbackend.testing import Lab
from vbackend.testing.packets import PacketReader
from vbackend.testing.recorder import Tape
from vbackend.testing.report import leave_artifacts

HELLO = frame(BROADCAST, mac(1), b"hello", size=60)


def test_files_and_sections(lab: Lab, tmp_path: Path) -> None:
    tape = Tape(lab.control, tmp_path)
    a, b = lab.fake_guest("a"), lab.fake_guest("b")
    a.send(HELLO)
    b.recv()
    tape.stop()
    ((title, text),) = leave_artifacts(lab, tape, tmp_path / "left")
    left = tmp_path / "left" / lab.name
    assert title == f"lab {lab.name}"
    assert text == f"files: {left}\n{(left / 'show.txt').read_text()}"
    assert "TRAFFIC" in text
    assert sorted(path.name for path in left.iterdir()) == ["daemon.log", "links.pcapng", "show.txt"]
    assert [one.frame for one in PacketReader().feed((left / "links.pcapng").read_bytes())] == [HELLO]


def test_a_dead_lab(lab: Lab, tmp_path: Path) -> None:
    lab.down()
    ((_, text),) = leave_artifacts(lab, None, tmp_path / "left")
    assert "its daemon does not answer" in text
