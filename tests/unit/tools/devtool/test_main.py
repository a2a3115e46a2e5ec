"""`tools/dev`: which function a command line reaches, and what it does with a failure."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from tools.devtool import main as cli
from tools.devtool import setup, stages
from tools.devtool.run import ROOT, DevError

QUICK = "-m not root and not guest"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    seen: list[object] = []
    monkeypatch.setattr(setup, "setup", lambda: seen.append("setup"))
    monkeypatch.setattr(setup, "build_engine", lambda *, dev: seen.append(("build", dev)))
    monkeypatch.setattr(stages, "sanitize", lambda: seen.append("sanitize"))
    for name in ("fmt", "lint", "types", "rust_tests"):
        monkeypatch.setattr(stages, name, lambda name=name: seen.append(name))
    monkeypatch.setattr(stages, "run", lambda command, **_: seen.append(" ".join(command)))

    @contextmanager
    def beside(command: Sequence[str], **_: object) -> Iterator[None]:
        seen.append(" ".join(["beside", *command]))
        yield
        seen.append("end of beside")

    monkeypatch.setattr(stages, "beside", beside)
    monkeypatch.setattr(stages, "_present", lambda _tiers: ["tiers"])
    return seen


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["setup"], ["setup"]),
        (["build"], [("build", False)]),
        (["build", "--dev"], [("build", True)]),
        (["lint"], ["lint"]),
        (
            ["test"],
            [
                *("setup", "lint", "beside .venv/bin/python -m pytest tiers", "types", "rust_tests"),
                *(".venv/bin/python -m pytest tiers", "sanitize", "end of beside"),
                ".venv/bin/python -m pytest tests/bench",
            ],
        ),
        (["test", "-x", "--co"], ["setup", ".venv/bin/python -m pytest -x --co"]),
        (["check"], ["setup", "lint", "types", "rust_tests", f".venv/bin/python -m pytest {QUICK} tiers"]),
        (["demo", "--keep"], ["setup", ".venv/bin/python -m tools.demo --keep"]),
        (["fuzz", "--help"], ["setup", ".venv/bin/python -m tests.fuzz --help"]),
    ],
)
def test_dispatch(argv: list[str], expected: list[object], calls: list[object]) -> None:
    assert cli.main(argv) == 0
    assert calls == expected


def test_first_failure_ends_the_run_with_its_status(
    calls: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise DevError("mypy found 3 errors", 5)

    monkeypatch.setattr(stages, "types", fails)
    assert cli.main(["test"]) == 5
    assert calls == ["setup", "lint", "beside .venv/bin/python -m pytest tiers"]


@pytest.mark.parametrize("argv", [[], ["nonsense"], ["lint", "--fast"]])
def test_bad_arguments_exit_2(argv: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools/dev", *argv], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "usage: tools/dev" in done.stderr


def test_skips_are_failures_only_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []
    monkeypatch.setattr(stages, "run", lambda _command, env: seen.append(env))
    monkeypatch.delenv("CI", raising=False)
    stages.pytest([])
    monkeypatch.setenv("CI", "true")
    stages.pytest([])
    assert seen == [{}, {"VBACKEND_NO_SKIP": "1"}]
