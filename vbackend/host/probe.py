"""What this host can do for vbackend: the facts of `vbackend doctor`, each lack with its remedy.

`look` asks the host, `judge` is pure and turns what was seen into findings. What belongs to other rooms (QEMU, KVM, the
engine's build) comes in as functions, so that nothing here imports them. Rule: nothing is changed, loaded or started
for good, and a question that cannot be answered is a finding, not an error.
"""

import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vbackend.errors import VbackendError
from vbackend.host.capability import CAP_NET_ADMIN, has_capability

__all__ = ["Finding", "Sights", "findings", "judge", "look"]

_TUNGETFEATURES: Final = 0x8004_54CF  # linux/if_tun.h
_IFF_VNET_HDR: Final = 0x4000
_PATIENCE_S: Final = 10.0
_DGRAMS_ENOUGH: Final = 128  # a burst of one read; the kernel's default of 10 drops under load
_SOCKET_BUFFER_ENOUGH: Final = 1 << 20  # bytes; smaller ones lose bursts of UDP


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing the host can do or lacks. `essential`: without it vbackend is of no use at all."""

    name: str
    ok: bool
    found: str
    remedy: str
    essential: bool = False


@dataclass(frozen=True, slots=True)
class Sights:
    """What was seen. Text for things that are there or not: "" is there, else why not. None: not asked, or unknown."""

    tun: str
    net_admin: bool
    namespaces: str
    user_namespaces: str
    nft: str | None  # the first line of its --version
    slirp4netns: str | None  # likewise
    max_dgram_qlen: int | None
    rmem_max: int | None
    wmem_max: int | None
    qemu: str | None = None  # its version and what that can do
    qemu_lacks: str = ""
    kvm: tuple[bool, str] | None = None
    engine: Mapping[str, str] | None = None
    libpcap: str | None = None  # its version
    libpcap_lacks: str = ""


def findings(
    *,
    qemu: Callable[[], str] | None = None,
    kvm: Callable[[], tuple[bool, str]] | None = None,
    engine: Callable[[], Mapping[str, str]] | None = None,
    libpcap: Callable[[], str] | None = None,
) -> list[Finding]:
    """All there is to say about this host. May take some seconds.

    `qemu`: the installed version in words, HostError when there is none. `kvm`: whether a guest boots on it, and
    how that was seen. `engine`: its `profile` and `version`. `libpcap`: its version, HostError when there is none.
    What is not given is left out.
    """
    return judge(look(qemu=qemu, kvm=kvm, engine=engine, libpcap=libpcap))


def judge(seen: Sights) -> list[Finding]:
    """The findings, in the order of how much depends on them. Pure."""
    found = []
    if seen.engine is not None:
        found.append(_engine(seen.engine))
    if seen.qemu is not None or seen.qemu_lacks:
        remedy = "apt install qemu-system-x86 (Debian), or give the binary's path"
        found.append(
            Finding("QEMU", seen.qemu is not None, seen.qemu or seen.qemu_lacks, remedy, essential=True)
        )
    if seen.kvm is not None:
        works, how = seen.kvm
        remedy = "guests run under TCG, some ten times slower; allow KVM in the BIOS, or nested KVM on the outer host"
        found.append(Finding("KVM", works, how, remedy))
    found += [
        _lacking("/dev/net/tun", seen.tun, "opens, with virtio-net headers", _tun_remedy(seen.tun)),
        Finding(
            "CAP_NET_ADMIN",
            seen.net_admin,
            "taps, tuns and bridges can be made" if seen.net_admin else "no device can be made",
            "run as root; or have root make a tap for you: ip tuntap add dev NAME mode tap user $USER",
        ),
        _lacking(
            "network namespaces",
            seen.namespaces,
            "can be made and entered",
            "run as root; in a container, give it CAP_SYS_ADMIN",
        ),
        _lacking(
            "user namespaces",
            seen.user_namespaces,
            "can be made without root",
            "sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=15000 (Ubuntu: "
            "kernel.apparmor_restrict_unprivileged_userns=0), or run as root",
        ),
        Finding("nftables", seen.nft is not None, seen.nft or "there is no nft", "apt install nftables"),
        Finding(
            "slirp4netns",
            seen.slirp4netns is not None,
            seen.slirp4netns or "there is none: without root no lab reaches the outside",
            "apt install slirp4netns",
        ),
    ]
    if seen.libpcap is not None or seen.libpcap_lacks:
        there = seen.libpcap is not None
        remedy = "apt install libpcap0.8 (Debian): captures work without it, their filters do not"
        found.append(Finding("libpcap", there, seen.libpcap or seen.libpcap_lacks, remedy))
    limits = (
        (
            "net.unix.max_dgram_qlen",
            seen.max_dgram_qlen,
            _DGRAMS_ENOUGH,
            "dgram:unix ports lose bursts below",
        ),
        ("net.core.rmem_max", seen.rmem_max, _SOCKET_BUFFER_ENOUGH, "dgram:udp ports lose bursts below"),
        ("net.core.wmem_max", seen.wmem_max, _SOCKET_BUFFER_ENOUGH, "dgram:udp ports lose bursts below"),
    )
    found += [_limit(*limit) for limit in limits]
    return found


def look(
    *,
    qemu: Callable[[], str] | None = None,
    kvm: Callable[[], tuple[bool, str]] | None = None,
    engine: Callable[[], Mapping[str, str]] | None = None,
    libpcap: Callable[[], str] | None = None,
) -> Sights:
    """Ask the host. Arguments as for `findings`."""
    version, lacks = _asked(qemu)
    pcap, pcap_lacks = _asked(libpcap)
    return Sights(
        tun=_tun(),
        net_admin=has_capability(CAP_NET_ADMIN),
        namespaces=_tried("unshare", "--net", "true"),
        user_namespaces=_tried("unshare", "--user", "--map-root-user", "--net", "true"),
        nft=_first_line("nft", "--version"),
        slirp4netns=_first_line("slirp4netns", "--version"),
        max_dgram_qlen=_sysctl("net/unix/max_dgram_qlen"),
        rmem_max=_sysctl("net/core/rmem_max"),
        wmem_max=_sysctl("net/core/wmem_max"),
        qemu=version,
        qemu_lacks=lacks,
        kvm=None if kvm is None else kvm(),
        engine=None if engine is None else engine(),
        libpcap=pcap,
        libpcap_lacks=pcap_lacks,
    )


def _asked(version: Callable[[], str] | None) -> tuple[str | None, str]:
    """What is there, or why not."""
    try:
        return (None if version is None else version()), ""
    except VbackendError as error:
        return None, str(error)


def _engine(build: Mapping[str, str]) -> Finding:
    profile, version = build.get("profile", "unknown"), build.get("version", "unknown")
    return Finding(
        "engine",
        profile == "release",
        f"version {version}, built for {profile}",
        "tools/dev build: a dev build is many times slower",
    )


def _tun_remedy(why: str) -> str:
    if "ermission" in why:
        return "chmod 0666 /dev/net/tun, or run as root"
    return "modprobe tun; in a container, give it --device /dev/net/tun"


def _lacking(name: str, why: str, fine: str, remedy: str) -> Finding:
    return Finding(name, not why, why or fine, remedy)


def _limit(name: str, value: int | None, enough: int, why: str) -> Finding:
    if value is None:
        return Finding(name, True, "not to be seen from here", "")
    return Finding(name, value >= enough, str(value), f"sysctl {name}={enough}: {why} that")


def _tun() -> str:
    """Why no tap can be attached; "": it can."""
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return str(error.strerror)
    try:
        (features,) = struct.unpack("I", fcntl.ioctl(fd, _TUNGETFEATURES, bytes(4)))
    except OSError as error:
        return f"it is no tun driver: {error.strerror}"
    finally:
        os.close(fd)
    return "" if features & _IFF_VNET_HDR else "the driver has no virtio-net headers"


def _tried(*command: str) -> str:
    """Why a harmless command fails; "": it does not."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_S,
            check=False,
        )
    except FileNotFoundError:
        return f"there is no {command[0]}: install util-linux"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]}: {error}"
    if done.returncode == 0:
        return ""
    words = done.stderr.strip().splitlines()
    return words[-1] if words else f"{command[0]} ended with status {done.returncode}"


def _first_line(program: str, argument: str) -> str | None:
    """What a program says of itself; root's folders are searched too, which users often lack in PATH."""
    path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, argument],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.splitlines()
    return lines[0] if done.returncode == 0 and lines else None


def _sysctl(path: str) -> int | None:
    try:
        return int((Path("/proc/sys") / path).read_text())
    except (OSError, ValueError):
        return None
