"""`--keep`: the demo stays up, and commands can be typed for its guests and the host until it is told to end."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence

from rich.console import Console

from tools.demo.guests import GuestPlace
from tools.demo.lab import HostPlace, Vbackend
from vbackend.qemu.agent import AgentError, CommandTimeoutError

__all__ = ["keep_running"]

COMMAND_LIMIT_S = 60.0


async def keep_running(
    console: Console, vbackend: Vbackend, host: HostPlace, guests: Sequence[GuestPlace]
) -> None:
    """Say how to look at it, then obey until `quit`, the end of input, Ctrl-C or SIGTERM."""
    enter = f"ip netns exec {host.namespace}"
    console.print("\n[bold]It keeps running.[/] From another terminal, as root:")
    console.print(f"  .venv/bin/vbackend show --control {vbackend.control}", soft_wrap=True)
    console.print(f"  .venv/bin/vbackend set alice down --control {vbackend.control}", soft_wrap=True)
    console.print(f"  {enter} tcpdump -ni demo0", soft_wrap=True)
    if not sys.stdin.isatty():
        console.print(f"To stop it: kill {os.getpid()}")
        await asyncio.Event().wait()
    names = "|".join(guest.name for guest in guests)
    console.print(
        f"Here: [bold]{names}|host COMMAND[/], [bold]show[/], or [bold]quit[/] (or Ctrl-C) to stop it."
    )
    _prompt()
    async for line in _lines():
        word, _, command = line.strip().partition(" ")
        by_name = {guest.name: guest for guest in guests}
        if word in ("quit", "exit"):
            return
        if word == "show":
            await vbackend.show()
        elif word in by_name and command:
            await _in_guest(console, by_name[word], command)
        elif word == "host" and command:
            words = [*enter.split(), "sh", "-c", command]
            await asyncio.to_thread(subprocess.run, words, stdin=subprocess.DEVNULL, check=False)
        elif word:
            console.print(f"try: {guests[0].name} ip addr")
        _prompt()


async def _in_guest(console: Console, place: GuestPlace, command: str) -> None:
    try:
        result = await place.guest.run(command, timeout=COMMAND_LIMIT_S)
    except (AgentError, CommandTimeoutError) as error:
        console.print(str(error), markup=False)
    else:
        console.print(result.text + result.errors, markup=False, end="")


def _prompt() -> None:
    print("demo> ", end="", flush=True)


async def _lines() -> AsyncIterator[str]:
    """Lines of the terminal, read only when one is there: a thread blocked in a read would hold up the end."""
    ready = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), ready.set)
    try:
        while True:
            await ready.wait()
            ready.clear()
            data = os.read(sys.stdin.fileno(), 4096)
            if not data:
                return
            for line in data.decode(errors="replace").splitlines():
                yield line
    finally:
        loop.remove_reader(sys.stdin.fileno())
