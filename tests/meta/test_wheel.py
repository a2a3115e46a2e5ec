"""The wheel holds the package and the engine, and no Rust source."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.meta.tree import ROOT, sources

MATURIN = Path(sys.executable).parent / "maturin"


@pytest.mark.timeout(600)
def test_wheel_content(tmp_path: Path) -> None:
    if not MATURIN.exists() or shutil.which("cargo") is None:
        pytest.skip("needs maturin and cargo: `tools/dev setup`")
    command = [str(MATURIN), "build", "--release", "--out", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert "-abi3-" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        meta = [name for name in archive.namelist() if name.endswith("/entry_points.txt")]
        entry_points = archive.read(meta[0]).decode()
    package = {str(p) for p in sources() if p.parts[0] == "vbackend" and "native" not in p.parts}
    expected = {name for name in package if not name.endswith(".md")} | {"vbackend/_native.abi3.so"}
    assert expected <= names, f"not in the wheel: {sorted(expected - names)}"
    assert names <= expected | package, f"should not be in the wheel: {sorted(names - expected - package)}"
    assert "vbackend=vbackend.cli.main:main" in entry_points.replace(" ", "")
