import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from vbackend.qemu import accel
from vbackend.qemu.accel import PROBE_SECTOR, KvmProbe, accelerator, probe_kvm, probe_machine, runtime_folder

needs_kvm_device = pytest.mark.skipif(
    not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="needs /dev/kvm and permission for it"
)


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is known yet, and what is learned is forgotten."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    probe_kvm.cache_clear()
    yield
    probe_kvm.cache_clear()


def fake_qemu(folder: Path, script: str) -> str:
    program = folder / "qemu-fake"
    program.write_text(f"#!/bin/sh\necho x >>{folder}/started\n{script}\n")
    program.chmod(0o755)
    return str(program)


def starts(folder: Path) -> int:
    return (folder / "started").read_text().count("x")


def test_sector_is_bootable() -> None:
    assert len(PROBE_SECTOR) == 512
    assert PROBE_SECTOR.endswith(b"\x55\xaa")
    jump = PROBE_SECTOR.index(b"\x74")
    assert jump + 2 + int.from_bytes(PROBE_SECTOR[jump + 1 : jump + 2], signed=True) == PROBE_SECTOR.index(
        b"\xf4"
    )


@pytest.mark.guest
def test_it_boots_under_emulation() -> None:
    assert probe_machine("tcg", "qemu-system-x86_64", 60) == KvmProbe(
        works=True, detail="a guest boots on tcg"
    )


@pytest.mark.guest
def test_unknown_accelerator() -> None:
    probe = probe_machine("warp", "qemu-system-x86_64", 60)
    assert not probe.works
    assert "warp" in probe.detail


@pytest.mark.parametrize(
    ("script", "works", "says"),
    [
        ("exit 33", True, "boots on kvm"),
        ("echo nope >&2; exit 1", False, "QEMU with kvm: nope"),
        ("exit 7", False, "status 7"),
        ("exec sleep 100", False, "hangs in boot for 0.2 s"),
    ],
)
def test_verdicts(tmp_path: Path, script: str, works: bool, says: str) -> None:
    probe = probe_machine("kvm", fake_qemu(tmp_path, script), 0.2 if "sleep" in script else 20)
    assert probe.works == works
    assert says in probe.detail


@needs_kvm_device
def test_asked_once_a_boot(tmp_path: Path) -> None:
    """Also by another process: the note is on disk."""
    binary = fake_qemu(tmp_path, "exit 33")
    assert accelerator(binary) == "kvm"
    probe_kvm.cache_clear()
    assert accelerator(binary) == "kvm"
    assert starts(tmp_path) == 1
    (note,) = (tmp_path / "run/vbackend").glob("kvm-probe-*.json")
    for useless in (note.read_text().replace('"boot":"', '"boot":"another'), "garbage", '{"boot": 1}'):
        note.write_text(useless)
        probe_kvm.cache_clear()
        before = starts(tmp_path)
        assert accelerator(binary) == "kvm"
        assert starts(tmp_path) == before + 1


@needs_kvm_device
def test_note_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    assert accelerator(fake_qemu(tmp_path, "exit 1")) == "tcg"


def test_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accel, "DEVICE", Path("/dev/no-kvm"))
    assert "kvm_intel" in probe_kvm().detail
    probe_kvm.cache_clear()
    monkeypatch.setattr(accel, "DEVICE", Path("/dev/null"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "join its group" in probe_kvm().detail


@pytest.mark.parametrize(
    ("environ", "uid", "folder"),
    [
        ({"XDG_RUNTIME_DIR": "/run/user/5"}, 5, "/run/user/5/vbackend"),
        ({"XDG_RUNTIME_DIR": "relative"}, 0, "/run/vbackend"),
        ({}, 0, "/run/vbackend"),
        ({}, 5, "/tmp/vbackend-5"),
    ],
)
def test_where_the_note_lies(
    environ: dict[str, str], uid: int, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/tmp")
    assert runtime_folder(environ, uid) == Path(folder)
