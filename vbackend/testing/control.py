"""A lab's daemon as tests see it: one command at a time, waiting for the answer.

Also for tests that are coroutines: what needs an event loop of its own gets a thread then.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

from pydantic import JsonValue

from vbackend.control import client
from vbackend.control.place import lab_control_path
from vbackend.lab.client import status
from vbackend.lab.remote import run_command
from vbackend.lab.status import LabStatus
from vbackend.qemu.agent import Result
from vbackend.snapshot import BackendSnapshot

__all__ = ["LabControl", "blocking"]

P = ParamSpec("P")
R = TypeVar("R")


class LabControl:
    """One lab below one runtime directory (`environ["XDG_RUNTIME_DIR"]`)."""

    def __init__(self, name: str, environ: Mapping[str, str]) -> None:
        self.name: Final = name
        self.environ: Final = environ
        self.path: Final = lab_control_path(name, environ)

    def execute(
        self, command: str, arguments: Mapping[str, JsonValue] | None = None, *, timeout: float = 30.0
    ) -> JsonValue:
        """ConfigError, ControlError: the daemon says no, or there is none."""
        return blocking(client.call, self.path, command, arguments, timeout=timeout)

    def run(self, vm: str, command: str, *, input: bytes, timeout: float) -> Result:
        """A command in a guest. Errors as `run_command`."""
        return blocking(run_command, self.path, vm, command, input=input, timeout=timeout)

    def snapshot(self) -> BackendSnapshot:
        """What `vbackend show` prints."""
        return blocking(client.status, self.path)

    def status(self) -> LabStatus:
        """What `vbackend ps` prints."""
        return blocking(status, self.name, self.environ)


def blocking(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call what calls `asyncio.run`, also where a loop runs, which then stands still."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return function(*args, **kwargs)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args, **kwargs).result()
