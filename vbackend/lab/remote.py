"""Commands in a guest of a lab, for whoever is not its daemon: over a socket that the daemon offers (relay.py).

For callers without an event loop. `run_command` gathers what a command writes, `attach_command` gives it this process's
stdin, stdout and stderr.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Literal

from vbackend.control.client import ControlClient
from vbackend.errors import ControlError, PeerError
from vbackend.ports.unixsock import socket_address
from vbackend.qemu.agent import Agent, Result

__all__ = ["attach_command", "run_command"]

_PIPE_BUF: Final = 4096  # bytes that a pipe which can be written to takes at once
_FDS: Final = {"out": 1, "err": 2}


def run_command(path: str, vm: str, command: str, *, input: bytes, timeout: float) -> Result:
    """Run a shell script in a VM of the lab whose control socket is at `path`. `input`: its stdin.

    ControlError: it is not over within `timeout` seconds, or there is no guest. ConfigError: there is nobody in the
    guest to run it, or it writes more than can be kept.
    """

    async def once() -> Result:
        async with _agent(path, vm) as agent:
            return await agent.run(command, input=input, timeout=timeout)

    try:
        return asyncio.run(once())
    except (TimeoutError, PeerError) as error:
        raise ControlError(f"VM {vm!r}: {error}") from None


def attach_command(path: str, vm: str, command: str, *, timeout: float | None) -> int:
    """As `run_command`, with stdin, stdout and stderr of this process; returns the status. `timeout` None: no limit.

    The first SIGINT goes to the command; the second is a KeyboardInterrupt, and kills it. OSError: as stdin, stdout and
    stderr have it. Other errors as `run_command`.
    """

    async def once() -> int:
        loop = asyncio.get_running_loop()
        async with _agent(path, vm) as agent:
            running = agent.open(command, has_input=sys.stdin is not None)

            def interrupt() -> None:
                loop.remove_signal_handler(signal.SIGINT)
                running.signal(signal.SIGINT)

            loop.add_signal_handler(signal.SIGINT, interrupt)
            try:
                async with asyncio.timeout(timeout) as limit:
                    return await running.carry(None if sys.stdin is None else _read, _write)
            except TimeoutError:
                if timeout is None or not limit.expired():
                    raise
                text = f"in the guest, {command!r} took more than {timeout:g} s, and was killed"
                raise ControlError(f"VM {vm!r}: {text}") from None
            finally:
                loop.remove_signal_handler(signal.SIGINT)

    try:
        return asyncio.run(once())
    except PeerError as error:
        raise ControlError(f"VM {vm!r}: {error}") from None


@asynccontextmanager
async def _agent(path: str, vm: str) -> AsyncIterator[Agent]:
    """The agent of a VM. Who leaves hangs up, and commands that run are killed."""
    async with ControlClient(path) as client:
        answer = await client.execute("vm-attach", {"vm": vm})
    place = answer.get("path") if isinstance(answer, dict) else None
    if not isinstance(place, str):
        raise ControlError(f"control socket {path}: no place of an agent in {answer!r}; another version?")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(socket_address(place))
    except OSError as error:
        sock.close()
        raise ControlError(f"agent's socket {place}: {error.strerror}; try again") from None
    async with Agent(sock, end="the lab's daemon has ended") as agent:
        yield agent


async def _read(most: int) -> bytes:
    loop = asyncio.get_running_loop()
    while True:
        await _ready(0, loop.add_reader, loop.remove_reader)
        try:
            return os.read(0, most)
        except BlockingIOError:  # somebody else who has it was first
            continue


async def _write(stream: Literal["out", "err"], data: bytes) -> None:
    """Write all of it. Nobody has a descriptor that is closed."""
    if (sys.stdout if stream == "out" else sys.stderr) is None:
        return
    loop, fd = asyncio.get_running_loop(), _FDS[stream]
    while data:
        await _ready(fd, loop.add_writer, loop.remove_writer)
        try:
            data = data[os.write(fd, data[:_PIPE_BUF]) :]
        except BlockingIOError:  # somebody else who has it was first
            continue


async def _ready(
    fd: int, add: Callable[[int, Callable[[], None]], None], remove: Callable[[int], bool]
) -> None:
    """Wait until a descriptor can be used without waiting; its own flags stay, since others have it too."""
    ready = asyncio.Event()
    try:
        add(fd, ready.set)
    except PermissionError:  # a file, which is always ready
        return
    try:
        await ready.wait()
    finally:
        remove(fd)
