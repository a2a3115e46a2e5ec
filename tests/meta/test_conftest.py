"""The rules of tests/conftest.py: skips are failures where told so, artefacts survive only failures."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.meta.tree import ROOT

SKIPS = """
import pytest

@pytest.mark.skip(reason="no such hardware")
def test_marked(): ...

def test_inside():
    pytest.skip("no such program")

@pytest.mark.xfail(reason="known", strict=True)
def test_expected():
    assert False
"""
SKIPPED_MODULE = "import pytest\npytest.skip('no such module', allow_module_level=True)\n"


def inner(code: str, folder: Path, *, no_skip: bool) -> dict[str, int]:
    """Run pytest on `code` with our conftest as a plugin; outcome -> how many."""
    path = folder / "test_inner.py"
    path.write_text(code)
    env = {k: v for k, v in os.environ.items() if k not in ("VBACKEND_NO_SKIP", "PYTEST_ADDOPTS")}
    if no_skip:
        env["VBACKEND_NO_SKIP"] = "1"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        os.devnull,
        "--rootdir",
        str(folder),
        "-p",
        "tests.conftest",
    ]
    command += ["-p", "no:cacheprovider", str(path)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    last = done.stdout.splitlines()[-1].strip("= ").split(" in ")[0]
    counts = {word.rstrip("s"): int(count) for count, word in (part.split() for part in last.split(", "))}
    failed = bool(counts.keys() & {"failed", "error"})
    assert (done.returncode in (0, 5)) is not failed, done.stdout  # 5: nothing collected
    return counts


@pytest.mark.parametrize(
    ("code", "no_skip", "outcomes"),
    [
        (SKIPS, False, {"skipped": 2, "xfailed": 1}),
        (SKIPS, True, {"error": 1, "failed": 1, "xfailed": 1}),
        (SKIPPED_MODULE, False, {"skipped": 1}),
        (SKIPPED_MODULE, True, {"error": 1}),
    ],
)
def test_skips(code: str, no_skip: bool, outcomes: dict[str, int], tmp_path: Path) -> None:
    assert inner(code, tmp_path, no_skip=no_skip) == outcomes


@pytest.mark.parametrize(("verdict", "kept"), [("True", False), ("False", True)])
def test_artifacts_stay_when_a_test_fails(verdict: str, kept: bool, tmp_path: Path) -> None:
    note = tmp_path / "where"
    code = f"""
from pathlib import Path
def test_it(artifacts):
    (artifacts / "log").write_text("x")
    Path({str(note)!r}).write_text(str(artifacts))
    assert {verdict}
"""
    inner(code, tmp_path, no_skip=False)
    folder = Path(note.read_text())
    assert folder.parent == ROOT / "artifacts"
    assert (folder / "log").exists() is kept
    if kept:
        (folder / "log").unlink()
        folder.rmdir()
