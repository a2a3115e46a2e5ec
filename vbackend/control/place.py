"""Where control sockets lie: `$XDG_RUNTIME_DIR/vbackend/NAME.sock`, else `/run/vbackend/NAME.sock`; those of labs
at `labs/LAB/control.sock` beside them.

Only names and the directory; the socket is server.py's.
"""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from vbackend.errors import ConfigError, HostError
from vbackend.ports import values

__all__ = [
    "DEFAULT_NAME",
    "checked_name",
    "control_path",
    "lab_control_path",
    "lab_folder",
    "lab_names",
    "lab_of",
    "make_private_dir",
    "make_runtime_dir",
    "running_labs",
    "running_names",
    "runtime_dir",
]

DEFAULT_NAME: Final = "default"
_SUFFIX: Final = ".sock"
_LABS: Final = "labs"
_LAB_SOCKET: Final = "control.sock"
_LAB_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,19}")  # as in a lab's file
_REMEDY: Final = "set XDG_RUNTIME_DIR to a directory of yours, or give --control PATH"


def checked_name(name: str) -> str:
    """The name, when it can be one. ConfigError otherwise."""
    try:
        return values.port_name("--name", name)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def runtime_dir(environ: Mapping[str, str]) -> Path:
    """vbackend's own directory for sockets. A relative XDG_RUNTIME_DIR counts as unset, as XDG says."""
    base = environ.get("XDG_RUNTIME_DIR", "")
    return Path(base if base.startswith("/") else "/run") / "vbackend"


def control_path(name: str | None, control: str | None, environ: Mapping[str, str]) -> str:
    """The control socket's path for `--name` and `--control`, of which the latter wins."""
    if control is not None:
        return control
    return str(runtime_dir(environ) / f"{checked_name(name or DEFAULT_NAME)}{_SUFFIX}")


def lab_folder(name: str, environ: Mapping[str, str]) -> Path:
    """Where a lab keeps its sockets and its state. ConfigError: that cannot be the name of one."""
    if not _LAB_NAME.fullmatch(name):
        raise ConfigError(
            f"lab {name!r}: no name of a lab; they have up to 20 of a-z, 0-9 and '-', a letter first"
        )
    return runtime_dir(environ) / _LABS / name


def lab_control_path(name: str, environ: Mapping[str, str]) -> str:
    """The control socket of a lab's daemon."""
    return str(lab_folder(name, environ) / _LAB_SOCKET)


def lab_of(path: str) -> str | None:
    """The lab whose control socket has this path; None: it is another one's."""
    found = Path(path)
    is_lab = found.name == _LAB_SOCKET and found.parent.parent.name == _LABS
    return found.parent.name if is_lab else None


def lab_names(environ: Mapping[str, str]) -> list[str]:
    """Labs with a folder, sorted; their daemon may be dead."""
    try:
        found = (runtime_dir(environ) / _LABS).iterdir()
        return sorted(path.name for path in found if path.is_dir() and _LAB_NAME.fullmatch(path.name))
    except OSError:
        return []


def make_runtime_dir(path: str, environ: Mapping[str, str]) -> None:
    """When `path` lies in the runtime directory, make that, for its owner only. HostError: impossible."""
    directory = runtime_dir(environ)
    if Path(path).parent == directory:
        try:
            make_private_dir(directory)
        except FileNotFoundError:
            raise HostError(f"control socket {path}: there is no {directory.parent}; {_REMEDY}") from None


def make_private_dir(directory: Path) -> None:
    """Make a directory, or see to it that it is its owner's only. FileNotFoundError: its parent is not there;
    HostError: impossible."""
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise HostError(f"{directory} is not a directory of this user; {_REMEDY}")
        if found.st_mode & 0o077:
            directory.chmod(0o700)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise HostError(f"cannot make {directory}: {error.strerror}; {_REMEDY}") from None


def running_names(environ: Mapping[str, str]) -> list[str]:
    """Names with a socket file in the runtime directory, sorted; they may be stale."""
    try:
        return sorted(path.name.removesuffix(_SUFFIX) for path in runtime_dir(environ).glob(f"*{_SUFFIX}"))
    except OSError:
        return []


def running_labs(environ: Mapping[str, str]) -> list[str]:
    """Labs with a control socket, sorted; it may be stale."""
    return [name for name in lab_names(environ) if (lab_folder(name, environ) / _LAB_SOCKET).exists()]
