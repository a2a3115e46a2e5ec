"""The pytest plugin as an ordinary user has it."""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support.privileges import as_user, seeing_open_tun
from tests.unit.testing.conftest import LAB

pytestmark = pytest.mark.root

USER = 4242
TAP = """
[switch.host]
ports = ["stream:unix:e.sock,name=e", "tap:lab0,addr=10.9.0.1/24"]
"""
TEST = """
import os
import pytest

@pytest.mark.lab("two.toml")
def test_it(lab):
    assert os.geteuid() != 0
    a, b = lab.fake_guest("a"), lab.fake_guest("b")
    with lab.link("core").capture() as recording:
        a.send(bytes(60))
        assert b.recv() == bytes(60)
        assert recording.expect("less 100").frame == bytes(60)
    who_has = "0001080006040001 020000000001 0a090002 000000000000 0a090001"
    e = lab.fake_guest("e")
    e.send(bytes.fromhex("ffffffffffff 020000000001 0806" + who_has).ljust(60, bytes(1)))
    e.expect("arp[6:2] = 2 and arp src 10.9.0.1")  # from the tap, in a namespace of the lab's own
"""


def test_a_lab_without_root() -> None:
    with TemporaryDirectory(prefix="vbt-", dir="/tmp") as name:
        folder = Path(name)
        (folder / "two.toml").write_text(LAB + TAP)
        (folder / "test_it.py").write_text(TEST)
        for path in (folder, *folder.iterdir()):
            os.chown(path, USER, USER)
        options = ("-p", "no:cacheprovider", "-p", "no:asyncio", "--basetemp", f"{name}/tmp")
        done = subprocess.run(
            [
                *("unshare", "--mount"),
                *seeing_open_tun(folder / "tun"),
                *as_user(USER),
                sys.executable,
                "-m",
                "pytest",
                *options,
                "test_it.py",
            ],
            cwd=folder,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": name, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert not list(Path("/tmp").glob(f"vb-{USER}-*"))
