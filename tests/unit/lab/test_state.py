"""A lab's folder: records that appear whole, and a lock that dies with its process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vbackend.errors import HostError
from vbackend.lab.model import Lab, Nic, Vm
from vbackend.lab.picture import Machine
from vbackend.lab.state import LabFolder, LabLock, LabRecord, VmRecord, replace_file

LAB = Lab(name="two", vm={"a": Vm(disk="/d")})


@pytest.fixture
def folder(tmp_path: Path) -> LabFolder:
    found = LabFolder("two", {"XDG_RUNTIME_DIR": str(tmp_path)})
    found.make()
    found.fill()
    return found


def test_records(folder: LabFolder) -> None:
    assert folder.read() == LabRecord()
    record = LabRecord(file="/two.toml", running=LAB, wanted=None)
    folder.write(record)
    assert folder.read() == record
    assert oct(folder.root.stat().st_mode & 0o777) == "0o700"
    assert [path.name for path in folder.root.glob(".new*")] == []


def test_records_of_vms(folder: LabFolder) -> None:
    assert folder.read_vm("a") is None
    record = VmRecord(machine=Machine(Vm(disk="/d"), {"eth0": Nic(mac="02:00:00:00:00:01")}), since=1.5)
    folder.write_vm("a", record)
    assert folder.read_vm("a") == record
    assert folder.vm_names() == ["a"]
    (folder.vm("a").folder / "vm.json").write_text("{")
    assert folder.read_vm("a") is None
    folder.remove_vm("a")
    folder.remove_vm("a")
    assert folder.vm_names() == []


def test_the_disk_is_full(folder: LabFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("tempfile.NamedTemporaryFile", full)
    with pytest.raises(HostError, match="No space left on device"):
        folder.write(LabRecord())


def test_a_file_that_cannot_be_put_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "state.json").mkdir()
    with pytest.raises(HostError, match=r"cannot keep the lab's state in .*state.json"):
        replace_file(tmp_path / "state.json", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_a_locale_that_is_not_utf_8(tmp_path: Path) -> None:
    script = f"from vbackend.lab.state import *; replace_file(Path({str(tmp_path / 'file')!r}), 'gr\\xfcn')"
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    command = [sys.executable, "-c", f"from pathlib import Path; {script}"]
    subprocess.run(command, env={**os.environ, **plain}, check=True)
    assert (tmp_path / "file").read_bytes() == "grün".encode()


def test_one_lock(folder: LabFolder) -> None:
    assert LabLock.holder(folder) is None
    lock = LabLock.take(folder)
    assert lock is not None
    assert LabLock.take(folder) is None
    assert LabLock.holder(folder) == os.getpid()
    lock.release()
    lock.release()
    assert LabLock.holder(folder) is None
    again = LabLock.take(folder)
    assert again is not None
    folder.write_vm("a", VmRecord(machine=Machine(Vm(disk="/d")), since=0))
    folder.remove()
    again.release()
    assert not folder.root.exists()
    assert LabLock.take(folder) is None
    assert LabLock.holder(folder) is None
    folder.remove()


def test_other_labs_stay(folder: LabFolder, tmp_path: Path) -> None:
    other = LabFolder("other", {"XDG_RUNTIME_DIR": str(tmp_path)})
    other.make()
    folder.remove()
    assert other.root.is_dir()


def test_no_place(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="set XDG_RUNTIME_DIR"):
        LabFolder("two", {"XDG_RUNTIME_DIR": str(tmp_path / "no")}).make()
