"""Throw-away network namespaces, as `ip netns` makes them: a name of their own, loopback up, removed in any case.

    with namespace() as ns:
        ns.ip("link", "add", "br0", "type", "bridge")
        before = ns.state()
        ...
        assert not differences(before, ns.state())

`netns` is the same as a pytest fixture; a test module imports it. What a test leaves running in a namespace is
killed at the end.
"""

import json
import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Namespace", "differences", "namespace", "namespaces_of_threads", "netns"]

# What changes by itself: timers, carrier, and what the kernel settles when a device first comes up or gets a port.
_VOLATILE = frozenset(
    {
        "operstate",
        "stats64",
        "stats",
        "qdisc",
        "valid_life_time",
        "preferred_life_time",
        "inet6_addr_gen_mode",
        "tso_max_size",
        "tso_max_segs",
    }
)
_STATE_COMMANDS = (
    ("-d", "link"),
    ("address",),
    ("-4", "route", "show", "table", "all"),
    ("-6", "route", "show", "table", "all"),
    ("rule",),
)


@dataclass(frozen=True, slots=True)
class Namespace:
    name: str

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command inside; returns its standard output. CalledProcessError with its words on failure."""
        done = subprocess.run(
            self.command(*command), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if check and done.returncode != 0:
            raise AssertionError(f"in {self.name}: {' '.join(command)}: {done.stderr.strip() or done.stdout}")
        return done.stdout

    def command(self, *command: str) -> list[str]:
        """The command that runs another one inside."""
        return ["ip", "netns", "exec", self.name, *command]

    def ip(self, *words: str) -> str:
        """`ip` for this namespace, run from outside."""
        return _ip("-n", self.name, *words)

    def links(self) -> dict[str, dict[str, Any]]:
        """`ip -d link` by name."""
        return {link["ifname"]: link for link in json.loads(self.ip("-json", "-d", "link") or "[]")}

    def addresses(self, ifname: str) -> set[str]:
        """Global addresses of a link: "10.0.0.1/24", of a point-to-point link "10.0.0.1 peer 10.0.0.2/32"."""
        (link,) = json.loads(self.ip("-json", "address", "show", "dev", ifname))
        found = set()
        for entry in link["addr_info"]:
            if entry["scope"] == "global":
                peer = f" peer {entry['address']}" if "address" in entry else ""
                found.add(f"{entry['local']}{peer}/{entry['prefixlen']}")
        return found

    def state(self) -> dict[str, Any]:
        """Links, addresses, routes, rules and nftables, comparable: without what changes by itself."""
        state = {" ".join(words): _settled(self.ip("-json", *words)) for words in _STATE_COMMANDS}
        state["nft"] = self.run("nft", "list", "ruleset", check=False)
        return state


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """Where two states differ, one line each; empty when they do not. Better to read than the states."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = sorted(before.keys() | after.keys())
        return [
            line for key in keys for line in differences(before.get(key), after.get(key), f"{path}/{key}")
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = zip(before, after, strict=True)
        return [line for at, (b, a) in enumerate(pairs) for line in differences(b, a, f"{path}[{at}]")]
    return [] if before == after else [f"{path}: {before!r} became {after!r}"]


@contextmanager
def namespace(prefix: str = "vbtest") -> Iterator[Namespace]:
    """A new namespace; gone, with all that runs in it, when the block is left."""
    ns = Namespace(f"{prefix}-{secrets.token_hex(4)}")
    _ip("netns", "add", ns.name)
    try:
        ns.ip("link", "set", "lo", "up")
        yield ns
    finally:
        for pid in _ip("netns", "pids", ns.name).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        _ip("netns", "delete", ns.name)


def namespaces_of_threads() -> set[int]:
    """The inodes of the network namespaces that this process's threads are in."""
    found = set()
    for thread in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # it ended meanwhile
            found.add((thread / "ns/net").stat().st_ino)
    return found


@pytest.fixture
def netns() -> Iterator[Namespace]:
    with namespace() as ns:
        yield ns


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def _settled(text: str) -> Any:
    return _without_volatile(json.loads(text or "[]"))


def _without_volatile(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_volatile(item)
            for key, item in value.items()
            if key not in _VOLATILE and not key.endswith("_timer")
        }
    if isinstance(value, list):
        return [_without_volatile(item) for item in value]
    return value
