"""QEMU's monitor: commands and events of one QEMU, over the qemu.qmp library.

Thin: it turns the library's errors into ours and names the few commands we send. One connection, given as a
socket; there is no reconnecting, because the socket lives as long as QEMU.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Self

from qemu.qmp import EventListener, ExecuteError, Message, QMPClient, QMPError

from vbackend.errors import VbackendError

__all__ = ["ANSWER_S", "Qmp", "QmpCommandError", "QmpError"]

ANSWER_S: Final = 60.0  # the monitor stands still while QEMU writes a snapshot
Event = Mapping[str, Any]


class QmpError(VbackendError):
    """The monitor is gone, or answered with something that is no answer."""


class QmpCommandError(QmpError):
    """QEMU refused a command; `kind` is its error class, as GenericError."""

    def __init__(self, command: str, error: ExecuteError) -> None:
        super().__init__(f"QEMU refused {command}: {error}")
        self.kind: Final = error.error_class


class Qmp:
    """A connection to a monitor. `connect` makes one."""

    def __init__(self, client: QMPClient) -> None:
        self._client: Final = client

    @classmethod
    async def connect(cls, sock: socket.socket, *, timeout: float = 30.0) -> Self:
        """Take the socket and negotiate. QmpError when QEMU hangs up or is silent; the socket is closed then."""
        client = QMPClient("vbackend")
        client.logger = logging.getLogger("vbackend.qemu.qmp.client")
        client.logger.setLevel(logging.CRITICAL)  # what it logs is raised too
        sock.setblocking(False)
        try:
            async with asyncio.timeout(timeout):
                await client.connect(sock)
        except (QMPError, OSError, EOFError, TimeoutError) as error:
            sock.close()
            raise QmpError(f"QEMU's monitor does not answer: {error or 'silence'}") from error
        return cls(client)

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, timeout: float = ANSWER_S
    ) -> object:
        """Send a command and return its value. QmpCommandError: refused; QmpError: the monitor is gone, or silent."""
        try:
            async with asyncio.timeout(timeout):
                return await self._client.execute(command, arguments)
        except ExecuteError as error:
            raise QmpCommandError(command, error) from error
        except TimeoutError as error:
            raise QmpError(f"QEMU's monitor hangs, {command} was not answered in {timeout:g} s") from error
        except (QMPError, EOFError, OSError) as error:
            raise QmpError(f"QEMU's monitor is gone, {command} was not answered: {error}") from error

    @contextlib.contextmanager
    def events(
        self, *names: str, matching: Callable[[Message], bool] | None = None
    ) -> Iterator[EventListener]:
        """Listen from here on; events wait in the listener until they are read. No name means all."""
        with self._client.listener(names, matching) as listener:
            yield listener

    async def wait_event(self, name: str, *, timeout: float = 30.0) -> Event:
        """The next event of this name. For an event that an action causes, listen with `events` before the action."""
        with self.events(name) as listener:
            return await asyncio.wait_for(listener.get(), timeout)

    async def set_link(self, device: str, up: bool) -> None:
        """Plug or unplug the cable of a NIC or netdev, by its id."""
        await self.execute("set_link", {"name": device, "up": up})

    async def system_reset(self) -> None:
        """The reset button."""
        await self.execute("system_reset")

    async def stop(self) -> None:
        """Halt the virtual CPUs; `cont` lets them go on."""
        await self.execute("stop")

    async def cont(self) -> None:
        await self.execute("cont")

    async def quit(self) -> None:
        """End QEMU; it may be gone before it answers."""
        with contextlib.suppress(QmpError):
            await self.execute("quit")

    async def close(self) -> None:
        """Hang up; a monitor that is gone is as good as closed."""
        with contextlib.suppress(QMPError, EOFError, OSError):
            await self._client.disconnect()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
