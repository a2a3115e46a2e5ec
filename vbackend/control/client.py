"""The client's half of the control socket, over qemu.qmp's `QMPClient`: async, and `call` for one command.

Rule: errors are vbackend's. `ConfigError`: the server says an argument makes no sense; `ControlError`:
everything else, with what to try when nobody serves the socket.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from types import EllipsisType, TracebackType
from typing import Final, Self

from pydantic import JsonValue, TypeAdapter, ValidationError
from qemu.qmp import ConnectError, ExecuteError, Message, QMPClient, QMPError

from vbackend.control.place import control_path, lab_names, lab_of, running_names
from vbackend.control.protocol import ErrorClass
from vbackend.errors import ConfigError, ControlError
from vbackend.ports.unixsock import socket_address
from vbackend.snapshot import BackendSnapshot, PortSnapshot

__all__ = ["ControlClient", "call", "port_snapshot", "status"]

_PATIENCE: Final = 30.0  # seconds for one answer; port-add may wait for the host
_JSON: Final[TypeAdapter[JsonValue]] = TypeAdapter(JsonValue)


class ControlClient:
    """A connection to a running backend, open between `async with`. `patience`: seconds for one answer."""

    def __init__(self, path: str, *, patience: float = _PATIENCE) -> None:
        self.path: Final = path
        self._patience = patience
        self._qmp = QMPClient("vbackend")
        self._qmp.logger = logging.getLogger("vbackend.control.qmp")
        self._qmp.logger.setLevel(logging.CRITICAL)  # what it logs is raised too

    async def __aenter__(self) -> Self:
        address = socket_address(self.path)
        try:
            async with asyncio.timeout(self._patience):
                await self._qmp.connect(address)
        except ConnectError as error:
            raise ControlError(_why_not(self.path, error.exc)) from None
        except TimeoutError:
            raise ControlError(
                f"control socket {self.path}: no greeting for {self._patience:.0f} s"
            ) from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._qmp.disconnect()
        except (EOFError, OSError, QMPError) as error:
            logging.getLogger(__name__).debug("control socket %s: %s", self.path, error)

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, JsonValue] | None = None,
        *,
        timeout: float | EllipsisType | None = ...,
    ) -> JsonValue:
        """Run a command and return its value; `timeout`: seconds to wait, not given: the client's patience.

        ConfigError, ControlError: see above.
        """
        try:
            async with asyncio.timeout(self._patience if timeout is ... else timeout):
                return _JSON.validate_python(await self._qmp.execute(command, arguments))
        except ExecuteError as error:
            text = str(error)
            raise (
                ConfigError(text) if error.error_class == ErrorClass.CONFIG else ControlError(text)
            ) from None
        except (QMPError, EOFError, OSError, TimeoutError) as error:
            why = str(error) or "no answer"
            raise ControlError(f"control socket {self.path}: {command}: {why}") from None

    async def status(self) -> BackendSnapshot:
        """The whole backend at this moment."""
        try:
            return BackendSnapshot.model_validate(await self.execute("query-status"))
        except ValidationError as error:
            raise ControlError(_other_version(self.path, error)) from None

    async def events(self) -> AsyncIterator[Message]:
        """Events from now on, until the connection ends."""
        async for event in self._qmp.events:
            yield event


def call(
    path: str,
    command: str,
    arguments: Mapping[str, JsonValue] | None = None,
    *,
    timeout: float | None = _PATIENCE,
) -> JsonValue:
    """Connect, run one command, leave. For callers without an event loop."""

    async def once() -> JsonValue:
        patience = _PATIENCE if timeout is None else min(timeout, _PATIENCE)
        async with ControlClient(path, patience=patience) as client:
            return await client.execute(command, arguments, timeout=timeout)

    return asyncio.run(once())


def status(path: str) -> BackendSnapshot:
    """`ControlClient.status` for callers without an event loop."""

    async def once() -> BackendSnapshot:
        async with ControlClient(path) as client:
            return await client.status()

    return asyncio.run(once())


def port_snapshot(path: str, value: JsonValue) -> PortSnapshot:
    """The answer of port-add and port-set."""
    try:
        return PortSnapshot.model_validate(value)
    except ValidationError as error:
        raise ControlError(_other_version(path, error)) from None


def _other_version(path: str, error: ValidationError) -> str:
    where = ".".join(str(part) for part in error.errors()[0]["loc"])
    return f"control socket {path}: the answer does not fit at {where!r}; is it another version of vbackend?"


def _why_not(path: str, error: Exception) -> str:
    match error:
        case FileNotFoundError() | ConnectionRefusedError() if (lab := lab_of(path)) is not None:
            if lab in lab_names(os.environ):
                return f"lab {lab!r}: its process is dead; `vbackend up {lab}` takes its guests over"
            return f"lab {lab!r} does not run; `vbackend up` with its file starts it"
        case FileNotFoundError() | ConnectionRefusedError():
            there = running_names(os.environ)
            names = ", ".join(name for name in there if control_path(name, None, os.environ) != path)
            others = f"; there are sockets of: {names} (give --name)" if names else ""
            return f"control socket {path}: nobody serves it; start `vbackend run` first{others}"
        case PermissionError():
            return f"control socket {path}: permission denied; use the account vbackend runs as"
        case EOFError():  # before a word
            why = "it ends, it has too many clients, or it is no vbackend"
            return f"control socket {path}: what serves it hung up at once: {why}; try again"
        case OSError():
            return f"control socket {path}: {error.strerror or error}"
        case _:
            return f"control socket {path}: what serves it is no vbackend: {' '.join(str(error).split())}"
