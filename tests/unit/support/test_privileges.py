import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.privileges import as_user, seeing_open_tun

pytestmark = pytest.mark.root


def test_an_ordinary_user_runs_vbackend_and_may_not_configure_networks() -> None:
    script = (
        "import os, vbackend.cli.main; print(os.getuid(), os.geteuid(), open('/proc/self/status').read())"
    )
    done = subprocess.run(
        [*as_user(4242), sys.executable, "-c", script],
        cwd="/",
        env={},
        capture_output=True,
        text=True,
        check=True,
    )
    uids, _, status = done.stdout.partition(" Name:")
    assert uids == "4242 4242"
    (effective,) = [line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")]
    read_search = 1 << 2
    assert int(effective, 16) in (0, read_search)
    assert os.geteuid() == 0, "the caller is what it was"


def test_the_node_that_everybody_may_open_is_seen_by_the_command_only(tmp_path: Path) -> None:
    before = Path("/dev/net/tun").stat()
    command = [
        "unshare",
        "--mount",
        *seeing_open_tun(tmp_path / "tun"),
        "stat",
        "-c",
        "%a %t:%T",
        "/dev/net/tun",
    ]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "666 a:c8\n"
    after = Path("/dev/net/tun").stat()
    assert (stat.S_IMODE(after.st_mode), after.st_ino) == (stat.S_IMODE(before.st_mode), before.st_ino)
    assert not list(tmp_path.iterdir())
