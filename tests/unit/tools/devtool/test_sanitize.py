"""The sanitizer's tier: its commands, in order."""

from pathlib import Path

import pytest

from tools.devtool import sanitize
from tools.devtool.run import ROOT, DevError


def test_built_apart_then_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[str], dict[str, str]]] = []
    answers = {"cc": f"{ROOT}/libasan.so\n", "rustc": "host: a-b-c\n"}
    monkeypatch.setattr(sanitize, "output", lambda command: answers[command[0]])
    monkeypatch.setattr(sanitize, "run", lambda command, env: seen.append((command, env)))
    sanitize.sanitize(["tests/x", "-x"])
    (build, flags), (tests, names) = seen
    assert build[build.index("--target-dir") + 1] == "target/asan"
    assert build[build.index("--target") + 1] == "a-b-c"
    assert flags["RUSTFLAGS"].startswith("-Zsanitizer=address")
    assert tests[-2:] == ["tests/x", "-x"]
    assert names == {
        "VBACKEND_ASAN_ENGINE": f"{ROOT}/target/asan/a-b-c/asan/lib_native.so",
        "VBACKEND_ASAN_RUNTIME": f"{ROOT}/libasan.so",
    }


def test_without_a_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler without the library answers with its bare name."""
    monkeypatch.setattr(sanitize, "output", lambda _: "libasan.so\n")
    with pytest.raises(DevError, match="apt install gcc"):
        sanitize.sanitize()


def test_its_tests_exist() -> None:
    assert all((ROOT / Path(name)).is_dir() for name in sanitize.TESTS)
