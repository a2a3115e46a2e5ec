import shutil
import stat
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from vbackend.images.cpio import CharDevice, Directory, Entry, File, Symlink, newc

TREE: dict[PurePosixPath, Entry] = {
    PurePosixPath("bin/sh"): Symlink("busybox"),
    PurePosixPath("bin/busybox"): File(b"\x7fELF" + bytes(9), 0o755),
    PurePosixPath("etc/empty"): File(b""),
    PurePosixPath("tmp"): Directory(0o1777),
    PurePosixPath("dev/console"): CharDevice(5, 1),
}


def test_header_of_one_file() -> None:
    """Field by field, from buffer-format.rst: magic, 13 numbers of 8 hex digits, name, NUL, padding, data, padding."""
    archive = newc({PurePosixPath("a"): File(b"hello", 0o644)})
    assert archive[:6] == b"070701"
    numbers = [int(archive[6 + 8 * i : 14 + 8 * i], 16) for i in range(13)]
    assert numbers == [1, 0o100644, 0, 0, 1, 0, 5, 0, 0, 0, 0, 2, 0]
    assert archive[110:120] == b"a\0hello\0\0\0"
    assert archive[120:126] == b"070701"
    assert b"TRAILER!!!\0" in archive[120:]


@pytest.mark.skipif(shutil.which("cpio") is None, reason="needs cpio: apt-get install cpio")
def test_cpio_reads_it(tmp_path: Path) -> None:
    """The second opinion: GNU cpio lists what we meant."""
    wanted = {str(path): entry for path, entry in TREE.items()}
    archive = newc(TREE)
    listed = subprocess.run(["cpio", "-itv"], input=archive, capture_output=True, check=True).stdout.decode()
    rows = {line.split()[-3] if "->" in line else line.split()[-1]: line for line in listed.splitlines()}
    assert rows.keys() == wanted.keys() | {"bin", "etc", "dev"}
    assert rows["bin/sh"].startswith("lrwxrwxrwx")
    assert rows["bin/sh"].endswith("bin/sh -> busybox")
    assert rows["bin/busybox"].startswith("-rwxr-xr-x")
    assert rows["tmp"].startswith("drwxrwxrwt")
    assert rows["dev/console"].startswith("crw-------")
    assert "5,   1" in rows["dev/console"]
    subprocess.run(["cpio", "-id", "--quiet", "bin/*", "etc/*"], input=archive, cwd=tmp_path, check=True)
    assert (tmp_path / "bin/busybox").read_bytes() == b"\x7fELF" + bytes(9)
    assert (tmp_path / "etc/empty").read_bytes() == b""
    assert stat.S_IMODE((tmp_path / "bin/busybox").stat().st_mode) == 0o755


def test_same_entries_same_bytes() -> None:
    assert newc(TREE) == newc(dict(reversed(TREE.items())))


@pytest.mark.parametrize(
    "entries",
    [
        {"/etc": Directory()},
        {"../etc": Directory()},
        {".": Directory()},
        {"a": File(b""), "a/b": File(b"")},
        {"a": Symlink("c"), "a/b": File(b"")},
    ],
)
def test_impossible_trees(entries: dict[str, Entry]) -> None:
    with pytest.raises(ValueError, match=r"below"):
        newc({PurePosixPath(path): entry for path, entry in entries.items()})
