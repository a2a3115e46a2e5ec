import os
import subprocess
import sys

import pytest

from tests.support.privileges import as_user

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
