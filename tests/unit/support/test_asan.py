"""tests/support/asan.py: nothing without its variables; with them another engine, and a look whether it is there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import asan

ROOT = Path(__file__).resolve().parents[3]
ENGINE = next((ROOT / "vbackend").glob("_native*.so"))


@pytest.fixture(autouse=True)
def _asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine as it is, in the place of an instrumented one."""
    monkeypatch.setenv("VBACKEND_ASAN_ENGINE", str(ENGINE))
    monkeypatch.setenv("VBACKEND_ASAN_RUNTIME", "libc.so")


def test_nothing_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VBACKEND_ASAN_ENGINE")
    assert asan.environment() == {}
    asan.load_engine()
    asan.assert_watched(1)


def test_the_runtime_comes_first() -> None:
    assert asan.environment()["LD_PRELOAD"] == "libc.so"
    assert "handle_sigbus=0" in asan.environment()["ASAN_OPTIONS"]


def test_the_engine_is_taken_from_there(tmp_path: Path) -> None:
    copy = tmp_path / "lib_native.so"
    copy.write_bytes(ENGINE.read_bytes())
    code = (
        "from tests.support.asan import load_engine; load_engine();"
        "import vbackend.dataplane, sys; print(sys.modules['vbackend._native'].__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), "VBACKEND_ASAN_ENGINE": str(copy)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{copy}\n"


def test_an_engine_that_is_not_there_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VBACKEND_ASAN_ENGINE", str(tmp_path / "other.so"))
    with pytest.raises(AssertionError, match="has not loaded"):
        asan.assert_watched(os.getpid())
