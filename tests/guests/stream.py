"""A TCP connection between two guests that is fed for as long as a test wants, and whether all of it arrived.

    stream = await Stream.start(a, b, "10.5.0.2")
    ...  # what must not end it
    await stream.finish()

The sender counts, ten thousand lines at a time, so what has to arrive follows from how far it got. Both ends run by
themselves and leave what they found in files: a guest may move to another QEMU, and its agent then has another host.
"""

import asyncio
import hashlib
import itertools
from typing import Final, Self

from tests.support.linux import LinuxGuest

__all__ = ["Stream", "counted"]

CHUNK: Final = 10_000  # lines, 40 to 80 KB
_ports: Final = itertools.count(6001)


class Stream:
    """A running connection. `start` makes one, `finish` ends it."""

    def __init__(self, sender: LinuxGuest, receiver: LinuxGuest, port: int) -> None:
        self._sender = sender
        self._receiver = receiver
        self._port: Final = port

    @classmethod
    async def start(
        cls, sender: LinuxGuest, receiver: LinuxGuest, address: str, *, breath_us: int = 20_000
    ) -> Self:
        """Connect to `address`, where `receiver` is, and send, with a breath after each chunk."""
        port = next(_ports)
        # nc's input stays open: its end would be sent on.
        await receiver.check(
            f"mkfifo in-{port} && exec 3<>in-{port} && "
            f"sh -c 'echo $$ >pid-{port}; exec nc -l -p {port}' <in-{port} | sha256sum >got-{port} 2>&1 &"
        )
        await receiver.wait_until(f"netstat -ltn | grep -q ':{port} '")
        await sender.check(
            f"n=0; {{ until [ -e stop-{port} ]; do "
            f"[ -e hold-{port} ] || {{ seq $n $((n + {CHUNK - 1})); n=$((n + {CHUNK})); }}; usleep {breath_us}; done; "
            f"echo $n >sent-{port}; }} 2>/dev/null | nc {address} {port} &"
        )
        return cls(sender, receiver, port)

    def follow(self, source: LinuxGuest, target: LinuxGuest) -> None:
        """`source` has moved, and is `target` now."""
        self._sender = target if self._sender is source else self._sender
        self._receiver = target if self._receiver is source else self._receiver

    async def hold(self) -> None:
        """Send nothing for now, and read nothing."""
        await self._sender.check(f"touch hold-{self._port}")
        await self._receiver.check(f"kill -STOP $(cat pid-{self._port})")

    async def send_unread(self) -> None:
        """Send again; what comes stays in the buffers of the receiver's kernel."""
        await self._sender.check(f"rm hold-{self._port}")

    async def read(self) -> None:
        """Read again."""
        await self._receiver.check(f"kill -CONT $(cat pid-{self._port})")

    async def finish(self, *, timeout: float = 60.0) -> int:
        """Stop sending and wait for the rest; bytes sent. AssertionError: it broke, or something else arrived."""
        port = self._port
        await self._sender.check(f"touch stop-{port}")
        sent, received = [
            await guest.wait_until(f"[ -s {what}-{port} ] && cat {what}-{port}", timeout=timeout)
            for guest, what in ((self._sender, "sent"), (self._receiver, "got"))
        ]
        length, digest = await asyncio.to_thread(counted, int(sent))
        assert received.split()[0] == digest, f"of {length} bytes some did not arrive as they were sent"
        return length


def counted(lines: int) -> tuple[int, str]:
    """Length and SHA-256 of the numbers from 0 to `lines` - 1, one a line; `lines` is a multiple of the chunk."""
    length, digest = 0, hashlib.sha256()
    for first in range(0, lines, CHUNK):
        text = "".join(f"{number}\n" for number in range(first, first + CHUNK)).encode()
        length += len(text)
        digest.update(text)
    return length, digest.hexdigest()
