"""Which of the kernel's switches a NAT needs in another position (Documentation/networking/ip-sysctl.rst).

A namespace of our own forwards between all its devices. Elsewhere only the gateway tap and the devices towards the
outside do: with IPv4 each device has its switch. With IPv6 it is so since Linux 6.17 (`force_forwarding`); before, only
the switch for all devices counts, and a device that forwards no longer listens to routers unless `accept_ra` is 2.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Setting", "outward_devices", "plan", "read_setting", "setting_path"]

_SYSCTLS: Final = Path("/proc/sys")


@dataclass(frozen=True, slots=True)
class Setting:
    """One switch, `path` below /proc/sys."""

    path: str
    was: str
    now: str


def setting_path(path: str) -> Path:
    """The file of a switch; below `net`, the one of the namespace of the thread that opens it."""
    return _SYSCTLS / path


def read_setting(path: str) -> str | None:
    """How a switch stands; None: this kernel has none of that name, or the device is gone."""
    try:
        return setting_path(path).read_text().strip()
    except FileNotFoundError:
        return None


def outward_devices(defaults: Iterable[str], routed: Iterable[str], tap: str) -> tuple[str, ...]:
    """The devices by which packets leave: those of default routes, or when there is none, those of any route."""
    found = sorted(set(defaults) - {tap, "lo"})
    return tuple(found or sorted(set(routed) - {tap, "lo"}))


def plan(
    versions: Sequence[int],
    tap: str,
    *,
    private: bool,
    outward: Mapping[int, Sequence[str]],
    devices: Sequence[str],
    loopback: bool,
    read: Callable[[str], str | None],
) -> list[Setting]:
    """What is to be set, in this order; undone in the other one. Pure.

    `private`: the namespace is our own. `outward`: devices towards the outside, by IP version. `devices`: all there
    are. `loopback`: ports of 127.0.0.1 are forwarded too. `read`: how a switch stands, None when there is none.
    """
    found: list[Setting] = []

    def want(path: str, value: str) -> None:
        was = read(path)
        if was is not None and was != value:
            found.append(Setting(path, was, value))

    if 4 in versions:
        if private:
            want("net/ipv4/conf/all/forwarding", "1")
        else:
            for device in (tap, *outward.get(4, ())):
                want(f"net/ipv4/conf/{device}/forwarding", "1")
        if loopback:
            want(f"net/ipv4/conf/{tap}/route_localnet", "1")
    if 6 in versions:
        everything = "net/ipv6/conf/all/forwarding"
        if private:
            want(everything, "1")
        elif read(everything) == "0":
            switches = [f"net/ipv6/conf/{device}/force_forwarding" for device in (tap, *outward.get(6, ()))]
            if read(switches[0]) is not None:
                for switch in switches:
                    want(switch, "1")
            else:
                for device in devices:
                    if read(f"net/ipv6/conf/{device}/accept_ra") == "1":
                        want(f"net/ipv6/conf/{device}/accept_ra", "2")
                want(everything, "1")
    return found
