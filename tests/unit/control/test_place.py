"""Names and directories of control sockets."""

import os
import stat
from pathlib import Path

import pytest

from vbackend.control.place import (
    checked_name,
    control_path,
    lab_control_path,
    lab_folder,
    lab_names,
    make_private_dir,
    make_runtime_dir,
    running_labs,
    running_names,
    runtime_dir,
)
from vbackend.errors import ConfigError, HostError


@pytest.mark.parametrize(
    ("name", "control", "environ", "path"),
    [
        (None, None, {"XDG_RUNTIME_DIR": "/run/user/7"}, "/run/user/7/vbackend/default.sock"),
        ("lab-1", None, {"XDG_RUNTIME_DIR": "/run/user/7"}, "/run/user/7/vbackend/lab-1.sock"),
        (None, None, {}, "/run/vbackend/default.sock"),
        (None, None, {"XDG_RUNTIME_DIR": ""}, "/run/vbackend/default.sock"),
        (None, None, {"XDG_RUNTIME_DIR": "relative"}, "/run/vbackend/default.sock"),
        ("lab", "/tmp/x", {}, "/tmp/x"),
        (None, "@abstract", {}, "@abstract"),
    ],
)
def test_control_path(name: str | None, control: str | None, environ: dict[str, str], path: str) -> None:
    assert control_path(name, control, environ) == path


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", "a b", "x" * 64, "a\n"])
def test_bad_names(name: str) -> None:
    with pytest.raises(ConfigError, match="--name is") as caught:
        checked_name(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", [None, 0o755, 0o700])
def test_runtime_dir_is_the_owners(tmp_path: Path, mode: int | None) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    directory = tmp_path / "vbackend"
    if mode is not None:
        directory.mkdir(mode)
    make_runtime_dir(control_path(None, None, environ), environ)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_other_directories_are_left_alone(tmp_path: Path) -> None:
    make_runtime_dir(str(tmp_path / "missing" / "x.sock"), {"XDG_RUNTIME_DIR": str(tmp_path)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", ["file", "link", "missing parent"])
def test_impossible_runtime_dir(tmp_path: Path, make: str) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    match make:
        case "file":
            (tmp_path / "vbackend").write_text("")
        case "link":
            (tmp_path / "vbackend").symlink_to(tmp_path)
        case "missing parent":
            environ = {"XDG_RUNTIME_DIR": str(tmp_path / "missing")}
    with pytest.raises(HostError, match="give --control PATH"):
        make_runtime_dir(control_path(None, None, environ), environ)


def test_running_names(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert running_names(environ) == []
    (tmp_path / "vbackend").mkdir()
    for name in ("b.sock", "a.sock", "other"):
        (tmp_path / "vbackend" / name).touch()
    assert running_names(environ) == ["a", "b"]


def test_runtime_dir_of_this_process() -> None:
    assert runtime_dir(os.environ).name == "vbackend"


def test_labs(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert running_labs(environ) == []
    for name in ("two-routers", "a", "No-Lab", "empty"):
        folder = tmp_path / "vbackend" / "labs" / name
        folder.mkdir(parents=True)
        if name != "empty":
            (folder / "control.sock").write_text("")
    assert running_labs(environ) == ["a", "two-routers"]
    assert lab_control_path("a", environ) == f"{tmp_path}/vbackend/labs/a/control.sock"
    for name in ("", "../a", "A", "a" * 21, "1a", "a\n"):
        with pytest.raises(ConfigError, match="no name of a lab"):
            lab_control_path(name, environ)


def test_folders_of_labs(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert lab_names(environ) == []
    folder = lab_folder("two", environ)
    assert folder == tmp_path / "vbackend" / "labs" / "two"
    with pytest.raises(FileNotFoundError):
        make_private_dir(folder)
    folder.mkdir(parents=True, mode=0o755)
    make_private_dir(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert lab_names(environ) == ["two"]
    with pytest.raises(ConfigError):
        lab_folder("a/b", environ)


def test_a_runtime_folder_that_is_not_there(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path / "no")}
    with pytest.raises(HostError, match=r"there is no .*no; set XDG_RUNTIME_DIR"):
        make_runtime_dir(control_path(None, None, environ), environ)
