import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.netns import Namespace, netns
from tests.support.privileges import as_user
from vbackend.errors import HostError
from vbackend.host.capability import CAP_NET_ADMIN, has_capability, keep_capabilities, run_privileged
from vbackend.host.netns import run_in_namespace

__all__ = ["netns"]


def own(line: str) -> int:
    status = dict(line.split(":", 1) for line in Path("/proc/thread-self/status").read_text().splitlines())
    return int(status[line], 16)


def test_what_the_kernel_says() -> None:
    for number in (0, CAP_NET_ADMIN, 40):
        assert has_capability(number) == bool(own("CapEff") >> number & 1)


def test_a_program_with_input_and_output() -> None:
    done = run_privileged(["sh", "-c", "cat; echo bad >&2; exit 3"], "words", 20)
    assert (done.returncode, done.stdout, done.stderr) == (3, "words", "bad\n")
    with pytest.raises(FileNotFoundError):
        run_privileged(["no-such-program"], "", 20)
    with pytest.raises(subprocess.TimeoutExpired):
        run_privileged(["sleep", "60"], "", 0.01)
    assert own("CapAmb") == 0


@pytest.mark.root
def test_it_runs_in_the_namespace_of_its_thread(netns: Namespace) -> None:
    netns.ip("link", "add", "here0", "type", "bridge")
    done = run_in_namespace(netns.name, lambda: run_privileged(["ip", "-o", "link"], "", 20))
    assert "here0" in done.stdout


USER = """
import subprocess
from vbackend.host.capability import run_privileged
from vbackend.host.rootless import own_namespace
outside = own_namespace()
add = ["ip", "link", "add", "{}", "type", "bridge"]
print(run_privileged([*add[:3], "with0", *add[4:]], "", 20).returncode)
print(subprocess.run([*add[:3], "without0", *add[4:]], capture_output=True).returncode)
outside.close()
"""


@pytest.mark.root
def test_only_that_program_has_the_privilege() -> None:
    done = subprocess.run(
        [*as_user(4242), sys.executable, "-c", USER],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert done.stdout.split() == ["0", "2"], done.stderr


@pytest.mark.root
def test_nobody_passes_on_what_they_lack() -> None:
    script = "from vbackend.host.capability import keep_capabilities; keep_capabilities(12)"
    done = subprocess.run(
        [*as_user(4242), sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert f"{HostError.__name__}: cannot pass capabilities on to a program: " in done.stderr
    keep_capabilities()
