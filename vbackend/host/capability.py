"""Capabilities of this process, and of the programs it starts (capabilities(7)).

Inside a user namespace where we are not root, a program that we start has none, unless they are ambient. Those belong
to the thread, so a program that needs one is started by a thread of its own, and nothing else inherits anything.
"""

import ctypes
import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from vbackend.errors import HostError

__all__ = ["CAP_NET_ADMIN", "has_capability", "keep_capabilities", "run_privileged"]

CAP_NET_ADMIN: Final = 12  # linux/capability.h

_VERSION_3: Final = 0x20080522
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_RAISE: Final = 2
_libc: Final = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Half(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def has_capability(number: int) -> bool:
    """Whether this thread has it in effect (proc(5), CapEff)."""
    try:
        status = Path("/proc/thread-self/status").read_text()
    except OSError:
        return False
    effective = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> number & 1)


def keep_capabilities(*numbers: int) -> None:
    """Let what this thread starts from now on have these capabilities too. HostError: we lack them ourselves."""
    header, halves = _Header(_VERSION_3, 0), (_Half * 2)()
    _check(_libc.capget(ctypes.byref(header), halves))
    for number in numbers:
        halves[number // 32].inheritable |= 1 << number % 32
    _check(_libc.capset(ctypes.byref(header), halves))
    for number in numbers:
        _check(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, 0, 0))


def run_privileged(command: Sequence[str], text: str, timeout: float) -> "subprocess.CompletedProcess[str]":
    """Run a program to its end in this thread's namespace, with CAP_NET_ADMIN if we have that ourselves. Blocks.

    `text`: its standard input. OSError: it cannot be started; subprocess.TimeoutExpired: after `timeout` seconds.
    """

    def run() -> "subprocess.CompletedProcess[str]":
        if os.geteuid() != 0 and has_capability(CAP_NET_ADMIN):
            keep_capabilities(CAP_NET_ADMIN)
        return subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )

    # A new thread is in the namespace of the one that made it.
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix=command[0]) as pool:
        return pool.submit(run).result()


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise HostError(f"cannot pass capabilities on to a program: {os.strerror(code)}; run as root")
