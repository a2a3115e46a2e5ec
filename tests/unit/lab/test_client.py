"""Labs and VMs by what users call them; daemons that are started, and those that are dead.

Daemons are real processes here; their labs have no VMs, which is how those who start QEMU themselves use them.
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lab_run import Labs, lab_runtime
from tests.support.run import wait_until
from vbackend.errors import ConfigError, ControlError, HostError
from vbackend.lab import client
from vbackend.lab.client import (
    Named,
    VmAddress,
    apply_lab,
    dead_guests,
    down,
    ensure_daemon,
    find_vm,
    is_served,
    link_rates,
    named_lab,
    running_lab,
    status,
)
from vbackend.lab.load import parse_lab
from vbackend.lab.state import LabFolder


@pytest.fixture
def labs() -> Iterator[Labs]:
    with lab_runtime() as found:
        yield found


def make(labs: Labs, name: str, *vms: str) -> LabFolder:
    """A lab's folder, as a dead daemon leaves it."""
    folder = labs.folder(name)
    folder.make()
    folder.fill()
    for vm in vms:
        (folder.vms / vm).mkdir()
    return folder


def test_labs_by_file_and_name(labs: Labs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "two.toml"
    file.write_text("[switch.lan]\n")
    assert named_lab(str(file), labs.environ) == Named(
        "two", parse_lab({"name": "two", "switch": {"lan": {}}}), str(file)
    )
    monkeypatch.chdir(tmp_path)
    assert named_lab("two.toml", labs.environ).file == str(file)
    with pytest.raises(ConfigError, match="'two' is neither a lab file nor a lab that runs; running: none"):
        named_lab("two", labs.environ)
    make(labs, "two")
    assert named_lab("two", labs.environ) == Named("two")
    file.write_text('[vm.a]\ndisk = "absent"\n')
    assert named_lab(str(file), labs.environ, host=False).name == "two"
    with pytest.raises(ConfigError, match="absent"):
        named_lab(str(file), labs.environ)


def test_vms(labs: Labs) -> None:
    make(labs, "one", "a", "b")
    make(labs, "two", "a")
    assert find_vm("b", None, labs.environ) == VmAddress("one", "b")
    assert find_vm("two/a", None, labs.environ) == VmAddress("two", "a")
    assert find_vm("a", "one", labs.environ) == VmAddress("one", "a")
    with pytest.raises(ConfigError, match="2 labs have a VM 'a'; say one/a or two/a"):
        find_vm("a", None, labs.environ)
    with pytest.raises(ConfigError, match="there is no VM 'c' that runs; there are one/a, one/b, two/a"):
        find_vm("c", None, labs.environ)
    assert dead_guests("one", labs.environ) == []


def test_the_life_of_a_daemon(labs: Labs, tmp_path: Path) -> None:
    named = Named(
        "two",
        parse_lab(
            f'name = "two"\n[[cable]]\nends = ["stream:unix:{tmp_path}/a", "stream:unix:{tmp_path}/b"]\n'
        ),
    )
    assert not is_served("two", labs.environ)
    ensure_daemon("two", labs.environ)
    ensure_daemon("two", labs.environ)
    with pytest.raises(ControlError, match="not been started to the end"):
        running_lab("two", labs.environ)
    told: list[str] = []
    apply_lab(named, labs.environ, lambda event, _: told.append(event))
    assert "LAB_PROGRESS" in told
    assert running_lab("two", labs.environ) == named.lab
    (link,) = status("two", labs.environ).links
    assert link_rates("two", labs.environ, 0.05) == {link.title: (0.0, 0.0)}
    labs.kill_daemon("two")
    ensure_daemon("two", labs.environ)
    apply_lab(Named("two"), labs.environ, lambda *_: None)
    assert running_lab("two", labs.environ) == named.lab
    down("two", labs.environ)
    assert not is_served("two", labs.environ)
    assert not labs.left()


def test_down_after_a_kill(labs: Labs) -> None:
    ensure_daemon("two", labs.environ)
    labs.kill_daemon("two")
    down("two", labs.environ)
    assert not labs.left()


def test_down_of_a_daemon_that_hangs(labs: Labs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_END_S", 0.2)
    ensure_daemon("two", labs.environ)
    pid = labs.daemon("two")
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    down("two", labs.environ)
    assert not labs.left()


def test_a_daemon_that_cannot_start(labs: Labs, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(folder: LabFolder, _: object) -> subprocess.Popen[bytes]:
        folder.make()
        folder.log.write_text("first\nvbackend: no engine\n")
        return subprocess.Popen(["false"])

    monkeypatch.setattr(client, "_spawn", broken)
    with pytest.raises(HostError, match="lab 'two': its daemon ended: vbackend: no engine"):
        ensure_daemon("two", labs.environ)


def test_a_lab_that_fails(labs: Labs, tmp_path: Path) -> None:
    lab = parse_lab(f'name = "two"\n[switch.lan]\nports = ["stream:unix:{tmp_path}/no/such"]\n')
    ensure_daemon("two", labs.environ)
    with pytest.raises(ControlError, match="what was done before is undone"):
        apply_lab(Named("two", lab), labs.environ, lambda *_: None)
    wait_until(lambda: not labs.left(), "nothing is left")
