"""Every module has its test file, stays short, and imports only what its room may."""

import importlib
from pathlib import Path

import pytest

from tests.meta.tree import ROOT, imports, sources
from tools.devtool.stages import TIERS

MODULES = [path for path in sources() if path.parts[0] == "vbackend" and path.suffix == ".py"]

# Modules without a test file of their own, and where they are tested instead.
TESTED_ELSEWHERE: dict[str, str] = {
    "vbackend/vhost_user/events.py": "dataclasses and numbers, compared in tests/unit/vhost_user/test_messages.py",
    "vbackend/ports/spec.py": "dataclasses without code, compared in tests/unit/ports/test_parse.py",
}

# Only this module may import that library, wherever in the repository's own code it lies.
SOLE_IMPORTERS = {
    "pyroute2": {"vbackend/host/link.py"},
    "vbackend._native": {"vbackend/dataplane.py"},
}

MOST_LINES = 500

# Longer than MOST_LINES for a reason.
LONGER: dict[str, str] = {}


def has_code(path: Path) -> bool:
    return path.name != "__init__.py" or "def " in (ROOT / path).read_text()


def unit_test_of(path: Path) -> Path:
    inside = path.relative_to("vbackend")
    name = "package" if path.name == "__init__.py" else path.stem
    return Path("tests/unit") / inside.parent / f"test_{name}.py"


@pytest.mark.parametrize("path", [path for path in MODULES if has_code(path)], ids=str)
def test_module_has_its_unit_test(path: Path) -> None:
    expected = unit_test_of(path)
    if str(path) in TESTED_ELSEWHERE:
        assert not (ROOT / expected).exists(), f"{expected} exists: take {path} off TESTED_ELSEWHERE"
    else:
        assert (ROOT / expected).is_file(), f"{path} has no {expected}"


def test_unit_tests_belong_to_a_module() -> None:
    expected = {unit_test_of(path) for path in MODULES}
    found = {path for path in sources() if path.match("test_*.py") and path.is_relative_to("tests/unit")}
    # tests/unit/support and tests/unit/tools mirror tests/support and tools
    expected |= {
        Path("tests/unit/support") / f"test_{p.stem}.py"
        for p in sources()
        if p.is_relative_to("tests/support")
    }
    expected |= {
        Path("tests/unit") / p.parent / f"test_{p.stem}.py" for p in sources() if p.is_relative_to("tools")
    }
    assert found <= expected, f"test files of no module: {sorted(map(str, found - expected))}"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_public_names_exist(path: Path) -> None:
    name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    if name.endswith("__main__"):
        return
    module = importlib.import_module(name)
    public = getattr(module, "__all__", None)
    assert public is not None or path.name == "__init__.py", f"{path} has no __all__"
    missing = [symbol for symbol in public or () if not hasattr(module, symbol)]
    assert not missing, f"{path}: __all__ names what is not there: {missing}"


@pytest.mark.parametrize(("library", "importers"), SOLE_IMPORTERS.items())
def test_only_one_room_imports(library: str, importers: set[str]) -> None:
    found = {str(p) for p in MODULES if any(n == library or n.startswith(f"{library}.") for n in imports(p))}
    assert found <= importers, f"only {importers} may import {library}"


def test_every_test_file_is_in_a_tier() -> None:
    """`tools/dev test` names the tiers, so a folder that is in none would never run."""
    files = [str(path) for path in sources() if path.parts[0] == "tests" and path.match("test_*.py")]
    left_out = [file for file in files if not any(file.startswith(f"{tier}/") for tier in TIERS)]
    assert files
    assert not left_out


def test_files_are_short() -> None:
    """Not counting the tests at the foot of a Rust file."""
    lines = {
        str(path): len((ROOT / path).read_text().split("#[cfg(test)]\nmod tests {")[0].splitlines())
        for path in sources()
        if path.suffix in (".py", ".pyi", ".rs")
    }
    long = {path: count for path, count in lines.items() if count > MOST_LINES}
    new = {path: count for path, count in long.items() if path not in LONGER}
    assert not new, f"find the second idea in {new}"
    assert LONGER.keys() <= long.keys(), f"short again, off LONGER: {LONGER.keys() - long.keys()}"
