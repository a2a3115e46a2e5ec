"""The program that passes for QEMU; what labs do with it is in tests/unit/lab."""

import subprocess
from pathlib import Path

from tests.support.fake_qemu import fake_qemu


def test_it_refuses_as_told(tmp_path: Path) -> None:
    done = subprocess.run(
        [fake_qemu(tmp_path), "-pidfile", str(tmp_path / "pid"), "-refuse"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "fake-qemu: -refuse: invalid option\n")
    assert not (tmp_path / "pid").exists()
