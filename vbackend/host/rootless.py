"""A network namespace of our own for an ordinary user, taps and bridges included (user_namespaces(7)).

    outside = own_namespace()      # first of all: before there is any thread, and before the engine starts
    if outside is not None:
        uplink = Uplink(outside, folder)   # uplink.py

Our user keeps its number inside: files, sockets and QEMU are the user's as ever, and programs that we start have no
privileges. We have all of them, over what belongs to this namespace. Unix sockets work across its border.

    python -m vbackend.host.rootless PID COMMAND...     # a command with all privileges inside, to look around
"""

import ctypes
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from vbackend.errors import HostError
from vbackend.host.capability import CAP_NET_ADMIN, has_capability, keep_capabilities
from vbackend.host.forwarding import read_setting, setting_path
from vbackend.host.link import Links
from vbackend.host.outside import Outside

__all__ = ["join", "main", "own_namespace", "remedy"]

_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
_IPV6: Final = ("net/ipv6/conf/default/accept_dad", "net/ipv6/conf/default/accept_ra")
_TUN: Final = Path("/dev/net/tun")
_LAST_CAPABILITY: Final = Path("/proc/sys/kernel/cap_last_cap")
_libc: Final = ctypes.CDLL(None, use_errno=True)


def own_namespace(inhabitant: int | None = None) -> Outside | None:
    """Go to a new user and network namespace, unless we have CAP_NET_ADMIN where we are: None then.

    `inhabitant`: go to that process's namespaces instead, as it runs there since an earlier vbackend. Returns the hand
    in the namespaces left behind, for an uplink. HostError with the remedy: this host forbids it, or we have threads.
    """
    if has_capability(CAP_NET_ADMIN):
        return None
    outside = Outside()
    try:
        if inhabitant is None:
            _leave()
        else:
            join(inhabitant)
        _furnish()
    except BaseException:
        outside.close()
        raise
    return outside


def join(pid: int) -> None:
    """Go to the user and network namespace of a process of ours. HostError: not possible."""
    try:
        with (
            Path(f"/proc/{pid}/ns/user").open() as user,
            Path(f"/proc/{pid}/ns/net").open() as network,
        ):
            for file, kind in ((user, _CLONE_NEWUSER), (network, _CLONE_NEWNET)):
                if _libc.setns(file.fileno(), kind) != 0:
                    code = ctypes.get_errno()
                    raise OSError(code, os.strerror(code))
    except OSError as error:
        raise HostError(
            f"cannot enter the namespaces of process {pid}: {error.strerror}; give a process of a lab of this user"
        ) from error


def remedy(code: int, read: Callable[[str], str | None]) -> str:
    """What to do about an errno of unshare(2). `read`: how a switch below /proc/sys stands. Pure."""
    for path, forbids, value in (
        ("kernel/unprivileged_userns_clone", "0", "1"),  # Debian's
        ("user/max_user_namespaces", "0", "15000"),
        ("user/max_net_namespaces", "0", "15000"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),  # Ubuntu's
    ):
        if read(path) == forbids:
            return f"have root do `sysctl {path.replace('/', '.')}={value}`, or run as root"
    match code:
        case errno.EINVAL:
            return "it has to be done before there are threads"
        case errno.ENOSPC | errno.EUSERS:
            return "there are too many: see `sysctl user.max_user_namespaces user.max_net_namespaces`"
        case _:
            return "run as root, or if this is a container, give it that right (seccomp, CAP_NET_ADMIN)"


def _leave() -> None:
    user, group = os.geteuid(), os.getegid()
    if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise HostError(
            f"cannot make a user and network namespace: {os.strerror(code)}; {remedy(code, read_setting)}"
        )
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        try:
            (Path("/proc/self") / name).write_text(line)
        except OSError as error:
            raise HostError(
                f"cannot write {name} of our user namespace: {error.strerror}; "
                f"{remedy(error.errno or 0, read_setting)}"
            ) from error


def _furnish() -> None:
    """Loopback up, IPv6 addresses usable at once and only as we give them, and a device to make taps with."""
    try:
        with Links() as links:
            links.set_link(links.get("lo"), up=True)
        for path in _IPV6:
            if read_setting(path) is not None:
                setting_path(path).write_text("0")
    except (OSError, HostError) as error:
        raise HostError(
            f"our user namespace has no privileges ({error}): {remedy(0, read_setting)}"
        ) from error
    try:
        os.close(os.open(_TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise HostError(
            f"cannot open {_TUN}, which taps are made with: {error.strerror}; have root do `modprobe tun` and "
            f"`chmod 0666 {_TUN}`"
        ) from error


def main(arguments: Sequence[str]) -> None:
    """Become a command in the namespaces of a process, or end with a line that says why not."""
    if len(arguments) < 2 or not arguments[0].isdigit():
        sys.exit("usage: python -m vbackend.host.rootless PID COMMAND...")
    pid, *command = arguments
    try:
        join(int(pid))
        keep_capabilities(*range(int(_LAST_CAPABILITY.read_text()) + 1))
        os.execvp(command[0], command)
    except HostError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
