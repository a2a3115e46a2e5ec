"""The checks of `tools/dev`, each a list of commands; fast ones first, the first failure ends the run."""

import os
from collections.abc import Sequence

from tools.devtool.run import ROOT, beside, run, venv_bin
from tools.devtool.sanitize import sanitize
from tools.devtool.setup import build_engine

__all__ = ["bench", "check", "demo", "fmt", "fuzz", "lint", "pytest", "rust_tests", "test", "types"]

MANIFEST = ("--manifest-path", "vbackend/native/Cargo.toml")
PYTHON_SOURCES = (".", "tools/dev")  # tools/dev has no suffix, so ruff must be told
QUICK_TIERS = ("tests/unit", "tests/property", "tests/conformance", "tests/meta")
PATIENT_TIERS = ("tests/host", "tests/guests")  # they wait more than they work
TIERS = (*QUICK_TIERS, "tests/clients", "tests/fuzz", *PATIENT_TIERS, "tests/bench")


def fmt() -> None:
    run([venv_bin("ruff"), "format", *PYTHON_SOURCES])
    run(["cargo", "fmt", *MANIFEST, "--all"])


def lint() -> None:
    run([venv_bin("ruff"), "format", "--check", *PYTHON_SOURCES])
    run([venv_bin("ruff"), "check", *PYTHON_SOURCES])
    run([venv_bin("lint-imports")])
    run(["cargo", "fmt", *MANIFEST, "--all", "--check"])
    run(["cargo", "clippy", *MANIFEST, "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"])


def types() -> None:
    run([venv_bin("mypy")])
    run([venv_bin("python"), "-m", "mypy.stubtest", "vbackend._native", "--concise"])


def rust_tests(args: Sequence[str] = ()) -> None:
    run(["cargo", "test", *MANIFEST, "--locked", "--workspace", *args])


def pytest(args: Sequence[str]) -> None:
    run(_pytest(args), env=_strict())


def _pytest(args: Sequence[str]) -> list[str]:
    return [venv_bin("python"), "-m", "pytest", *args]


def _strict() -> dict[str, str]:
    """Where CI is set, a skipped test is a failed one: that machine must be able to run all of them."""
    return {"VBACKEND_NO_SKIP": "1"} if os.environ.get("CI") else {}


def check() -> None:
    """Everything that needs neither root nor guests: before each commit."""
    lint()
    types()
    rust_tests()
    pytest(["-m", "not root and not guest", *_present(QUICK_TIERS)])


def test(args: Sequence[str]) -> None:
    """Everything, in two rows side by side; with arguments only the Python tests they name."""
    if args:
        pytest(args)
        return
    lint()
    with beside(_pytest(_present(PATIENT_TIERS)), env=_strict()):
        types()
        rust_tests()
        pytest(_present([tier for tier in TIERS if tier not in (*PATIENT_TIERS, "tests/bench")]))
        sanitize()
    pytest(["tests/bench"])  # some of its forwarders spin


def bench(args: Sequence[str]) -> None:
    build_engine(dev=False)
    run([venv_bin("python"), "-m", "tests.bench", *args])


def fuzz(args: Sequence[str]) -> None:
    run([venv_bin("python"), "-m", "tests.fuzz", *args])


def demo(args: Sequence[str]) -> None:
    run([venv_bin("python"), "-m", "tools.demo", *args], interactive=True)


def _present(tiers: Sequence[str]) -> list[str]:
    return [tier for tier in tiers if any((ROOT / tier).rglob("test_*.py"))]
