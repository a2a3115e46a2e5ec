"""`vbackend logs`, `console`, and `exec` for guests."""

import os
import threading
from pathlib import Path

import pytest

from tests.support.run import wait_until
from tests.unit.cli.harness import one_line, vbackend
from vbackend.cli.guests import VM_WORD
from vbackend.lab.state import LabFolder


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LabFolder:
    """A lab whose daemon is dead."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder = LabFolder("two", os.environ)
    folder.make()
    folder.fill()
    place = folder.vm("a")
    place.folder.mkdir()
    place.console_log.write_bytes(b"login: \xff\n")
    place.qemu_log.write_text("from qemu\n")
    return folder


@pytest.mark.usefixtures("lab")
def test_logs(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    from vbackend.cli.main import entry

    assert entry(["logs", "a"]) == 0
    assert capfdbinary.readouterr().out == b"login: \xff\n"
    assert entry(["logs", "two/a", "--qemu"]) == 0
    assert capfdbinary.readouterr().out == b"from qemu\n"


def test_logs_that_are_followed(lab: LabFolder, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    from vbackend.cli.main import entry

    following = threading.Thread(target=entry, args=(["logs", "a", "--follow"],))
    following.start()
    with lab.vm("a").console_log.open("ab") as log:
        log.write(b"more\n")
    shown = b""

    def more() -> bool:
        nonlocal shown
        shown += capfdbinary.readouterr().out
        return shown.endswith(b"more\n")

    wait_until(more, "what was appended")
    lab.remove()
    following.join(20)
    assert not following.is_alive()


@pytest.mark.usefixtures("lab")
def test_complaints(capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no VM 'b' that runs; there are two/a" in one_line(vbackend(capsys, "logs", "b"), 2)
    assert "cannot connect to the console" in one_line(vbackend(capsys, "console", "a"), 1)
    assert "nobody serves it" in one_line(vbackend(capsys, "exec", "a", "--", "true"), 1)
    assert "no command; write it after --" in one_line(vbackend(capsys, "exec", "two/a"), 2)
    assert "there is no VM 'a' that runs" in one_line(
        vbackend(capsys, "exec", "a", "--lab", "x", "--", "y"), 2
    )


@pytest.mark.parametrize(
    ("word", "is_vm"),
    [("r1", True), ("lab/r1", True), ("tap:x", False), ("stream:unix:/a", False), ("R1", False)],
)
def test_what_a_vm_may_be_called(word: str, is_vm: bool) -> None:
    assert bool(VM_WORD.fullmatch(word)) == is_vm
