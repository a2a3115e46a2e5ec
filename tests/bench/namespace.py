"""A network namespace of the bench's own for its taps and tuns.

Rule: nothing of the host sees the devices, and nothing but the bench sends there.
"""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Namespace", "lack", "private_namespace"]


@dataclass(frozen=True, slots=True)
class Namespace:
    """A named namespace; `ip netns` knows it."""

    name: str

    def command(self, command: Sequence[str]) -> list[str]:
        """The command as it runs inside; `ip` execs it, so the process keeps its number."""
        return ["ip", "netns", "exec", self.name, *command]

    def up(self, interface: str) -> None:
        _ip("-n", self.name, "link", "set", interface, "up")


def lack() -> str | None:
    """Why taps and tuns cannot be measured here; None: they can."""
    if os.geteuid() != 0:
        return "taps and tuns need root: run the bench as root"
    if not Path("/dev/net/tun").exists():
        return "no /dev/net/tun: `modprobe tun`, or give the container the device"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"no network namespaces ({tried.stderr.strip()}): give the container CAP_SYS_ADMIN"
    return None


@contextmanager
def private_namespace(name: str) -> Iterator[Namespace]:
    """Made now, removed with its devices at the end. No IPv6 in it: a device that comes up would send by itself."""
    _ip("netns", "add", name)
    try:
        namespace = Namespace(name)
        setting = "/proc/sys/net/ipv6/conf/default/disable_ipv6"
        quiet = f"test ! -e {setting} || echo 1 > {setting}"
        subprocess.run(namespace.command(["sh", "-c", quiet]), check=True)
        yield namespace
    finally:
        _ip("netns", "del", name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
