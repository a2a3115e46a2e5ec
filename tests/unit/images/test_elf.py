import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vbackend.images.elf import Needs, read_needs

PROGRAMS = [
    Path(path) for name in ("ls", "tar", "readelf", "qemu-system-x86_64") if (path := shutil.which(name))
]


@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf: apt-get install binutils")
@pytest.mark.parametrize("path", [*PROGRAMS, Path(sys.executable).resolve()], ids=lambda path: path.name)
def test_readelf_agrees(path: Path) -> None:
    told = subprocess.run(["readelf", "-ldW", path], capture_output=True, text=True, check=True).stdout
    libraries = re.findall(r"\(NEEDED\)\s+Shared library: \[(.*)\]", told)
    interpreter = re.search(r"Requesting program interpreter: (.*)\]", told)
    assert read_needs(path.read_bytes()) == Needs(interpreter[1] if interpreter else None, tuple(libraries))


def test_scripts_are_not_elf() -> None:
    assert read_needs(b"#!/bin/sh\n") is None
    assert read_needs(b"") is None


def test_other_machines() -> None:
    with pytest.raises(ValueError, match="not a 64-bit"):
        read_needs(b"\x7fELF\x01\x01" + bytes(60))


def test_cut_anywhere() -> None:
    """A file that is cut short is read, or refused with ValueError: never anything else."""
    whole = Path(sys.executable).resolve().read_bytes()
    for size in [*range(4, 1200, 7), len(whole) // 2, len(whole) - 1]:
        try:
            read_needs(whole[:size])
        except ValueError:
            continue
