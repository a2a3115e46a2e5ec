"""A TCP transfer between any two places with a shell, and whether what arrived is what was sent.

    await transfer(alice, Host(namespace), "10.0.0.254", size=4 << 20)

Only busybox is needed at both ends, so a guest, a namespace and the host itself will do.
"""

import asyncio
import itertools
from typing import Final, Protocol

from tests.support.netns import Namespace

__all__ = ["Host", "Shell", "receive_script", "send_script", "transfer"]

_ports: Final = itertools.count(5002)  # a port for each transfer: nobody waits for the last one's TIME-WAIT


class Shell(Protocol):
    """What runs commands somewhere."""

    async def check(self, command: str, *, timeout: float = 30.0) -> str:
        """Run a shell command that must succeed; its stdout."""


class Host:
    """The shell of a network namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace: Final = namespace

    async def check(self, command: str, *, timeout: float = 30.0) -> str:
        words = ("timeout", str(timeout), "sh", "-c", command)
        return await asyncio.to_thread(self._namespace.run, *words)


def receive_script(port: int) -> str:
    """Take one connection; prints the hash of what came. Its standard input stays open: an end would be sent on."""
    return (
        f"d=$(mktemp -d) && mkfifo $d/in && exec 3<>$d/in && busybox nc -l -p {port} <$d/in >$d/got && "
        "busybox sha256sum <$d/got && rm -r $d"
    )


def send_script(address: str, port: int, size: int) -> str:
    """Send `size` random bytes, a multiple of 64 KiB, and wait until they were taken; prints their hash."""
    return (
        f"p=$(mktemp) && busybox dd if=/dev/urandom of=$p bs=65536 count={size >> 16} 2>/dev/null && "
        f"busybox nc {address} {port} <$p && busybox sha256sum <$p && rm $p"
    )


async def transfer(
    sender: Shell, receiver: Shell, address: str, *, size: int = 1 << 20, timeout: float = 60
) -> None:
    """Send `size` random bytes to `address`, where `receiver` is. AssertionError: other bytes arrived."""
    port = next(_ports)
    async with asyncio.TaskGroup() as group:
        received = group.create_task(receiver.check(receive_script(port), timeout=timeout))
        listening = f"until busybox netstat -ltn | grep -q ':{port} '; do busybox usleep 20000; done"
        await receiver.check(listening, timeout=timeout)
        sent = await sender.check(send_script(address, port, size), timeout=timeout)
    assert received.result() == sent, f"{size} bytes to {address} arrived as others"
