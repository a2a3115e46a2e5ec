"""Running a function inside another network namespace, without the process noticing.

A namespace belongs to a thread (setns(2)), so each call gets a thread of its own that enters, works, and ends;
no other thread ever leaves its namespace, and nothing is forked while the engine's threads run.
"""

import ctypes
import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from vbackend.errors import HostError

__all__ = ["namespace_inode", "namespace_path", "run_in_namespace"]

_NAMESPACES: Final = Path("/run/netns")  # where `ip netns` keeps them
_CLONE_NEWNET: Final = 0x40000000
_libc: Final = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")


def namespace_path(name: str) -> Path:
    """The file of a named namespace. HostError: there is none of that name."""
    path = _NAMESPACES / name
    if not name or "/" in name or not path.exists():
        raise HostError(f"there is no network namespace {name!r}; make it with `ip netns add {name}`")
    return path


def namespace_inode(name: str | None) -> int | None:
    """What tells a namespace from a later one of the same name; None: there is none.

    `name` None: the main thread's namespace, which is the process's.
    """
    try:
        return (Path("/proc/self/ns/net") if name is None else _NAMESPACES / name).stat().st_ino
    except OSError:
        return None


def run_in_namespace(name: str | None, function: Callable[[], T]) -> T:
    """Call `function` in the namespace `name` (None: this thread's own) and wait for its result.

    HostError: no such namespace, or no privilege to enter it. Errors of `function` come out as they are.
    """
    if name is None:
        return function()
    path = namespace_path(name)

    def visit() -> T:
        _enter(path)
        return function()

    # One thread for one call: it dies with the pool, and so nobody meets it in its other namespace.
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"netns {name}") as pool:
        return pool.submit(visit).result()


def _enter(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(fd, _CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            remedy = (
                f"{path} is not one; make it with `ip netns add`"
                if code == errno.EINVAL
                else "it needs CAP_SYS_ADMIN: run as root"
            )
            raise HostError(f"cannot enter network namespace {path.name!r}: {os.strerror(code)}; {remedy}")
    finally:
        os.close(fd)
