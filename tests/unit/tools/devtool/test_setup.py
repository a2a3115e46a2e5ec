"""`tools/dev setup`: what it would install, and that unchanged inputs mean no work; nothing is installed."""

import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

from tools.devtool import setup
from tools.devtool.run import ROOT, DevError


class Host:
    """Stands in for the machine: records commands, answers queries."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers
        self.ran: list[str] = []

    def run(self, command: Sequence[str], **_: object) -> None:
        self.ran.append(" ".join(command))

    def output(self, command: Sequence[str]) -> str | None:
        return self.answers.get(" ".join(command[:2]))


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Host:
    installed = "".join(f"{package} installed\n" for package in setup.DEBIAN_PACKAGES)
    machine = Host(
        {
            "dpkg-query --show": installed,
            "cargo --version": "cargo 1.95.0 (x 2026-01-01)",
            "cargo fmt": "x",
            "cargo clippy": "x",
        }
    )
    monkeypatch.setattr(setup, "run", machine.run)
    monkeypatch.setattr(setup, "output", machine.output)
    monkeypatch.setattr(setup, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    monkeypatch.setattr(setup, "NATIVE", tmp_path / "native")
    monkeypatch.setattr(setup, "CONSTRAINTS", tmp_path / "constraints.txt")
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    for folder in (".venv", ".cargo", "native/engine", "native/target", "vbackend"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("pyproject.toml", ".cargo/config.toml", "native/engine/lib.rs", "constraints.txt"):
        (tmp_path / name).write_text("one")
    return machine


def test_second_run_does_nothing(host: Host, tmp_path: Path) -> None:
    setup.setup()
    assert [line.split()[0] for line in host.ran] == [
        sys.executable,
        *[".venv/bin/python"] * 2,
        ".venv/bin/maturin",
    ]
    (tmp_path / "vbackend/_native.abi3.so").touch()
    (tmp_path / ".venv/bin").mkdir()
    (tmp_path / ".venv/bin/python").touch()
    host.ran.clear()
    setup.setup()
    assert host.ran == []


@pytest.mark.parametrize(
    ("changed", "works_again"),
    [("native/engine/lib.rs", True), ("pyproject.toml", True), ("native/target/x.rs", False)],
)
def test_engine_is_rebuilt_when_its_sources_change(
    host: Host, tmp_path: Path, changed: str, works_again: bool
) -> None:
    library = tmp_path / "vbackend/_native.abi3.so"
    setup.build_engine(dev=False)
    library.touch()
    (tmp_path / changed).write_text("two")
    host.ran.clear()
    setup.build_engine(dev=False)
    assert host.ran == ([".venv/bin/maturin develop --release"] if works_again else [])
    assert library.exists() is not works_again, "the old library goes before the new one is built"


def test_engine_is_rebuilt_for_another_profile(host: Host, tmp_path: Path) -> None:
    setup.build_engine(dev=False)
    (tmp_path / "vbackend/_native.abi3.so").touch()
    setup.build_engine(dev=True)
    assert host.ran == [".venv/bin/maturin develop --release", ".venv/bin/maturin develop"]


def test_missing_packages_are_installed_by_root(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = host.answers["dpkg-query --show"]
    host.answers["dpkg-query --show"] = listed.replace("vde2 installed", "vde2 config-files")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    setup._debian_packages()
    assert host.ran == ["apt-get update", "apt-get install --yes --no-install-recommends vde2"]


def test_without_root_missing_packages_are_named(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.answers["dpkg-query --show"] = ""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(DevError, match=r"as root:\n  apt-get update && apt-get install .* qemu-system-x86 "):
        setup._debian_packages()
    assert host.ran == []


@pytest.mark.usefixtures("host")
def test_elsewhere_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None if name in ("dpkg-query", "iperf3") else "/bin/x")
    with pytest.raises(DevError, match=r"not Debian.*\n  iperf3 \(.*package iperf3\)$"):
        setup._debian_packages()


@pytest.mark.parametrize("told", [None, "cargo 1.63.0 (old)", "cargo 0.99.0"])
def test_old_or_missing_cargo_is_an_error(host: Host, told: str | None) -> None:
    host.answers.pop("cargo --version")
    if told:
        host.answers["cargo --version"] = told
    with pytest.raises(DevError, match=r"needs Rust 1\.88 or later.*rustup"):
        setup._rust_toolchain()
    assert host.ran == []


def test_missing_components_come_from_rustup(host: Host) -> None:
    del host.answers["cargo clippy"]
    setup._rust_toolchain()
    assert host.ran == ["rustup component add clippy"]


def test_asks_for_the_rust_the_engine_needs() -> None:
    manifest = tomllib.loads((ROOT / "vbackend/native/Cargo.toml").read_text())
    wanted = manifest["workspace"]["package"]["rust-version"]
    assert wanted == ".".join(map(str, setup.RUST_VERSION))
