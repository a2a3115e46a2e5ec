"""Our hand in the namespaces that we left: starts a keeper before we leave, and asks it to run a helper there.

Not here: what the keeper does (keeper.py), leaving (rootless.py), and which helper is run (uplink.py).
"""

import asyncio
import contextlib
import json
import logging
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from vbackend.errors import HostError

__all__ = ["Outside", "has_default_route"]

log = logging.getLogger(__name__)

_ROUTES: Final = Path("/proc/net/ipv6_route")
_RTF_REJECT: Final = 0x0200  # linux/route.h
_KEEPER: Final = Path(__file__).with_name("keeper.py")
_MOST: Final = 65536  # bytes of a message
_PATIENCE_S: Final = 10.0


class Outside:
    """Made before a loop runs and before we leave; used on one loop.

    It ends, and its helper with it, with `close` or with this process.
    """

    def __init__(self) -> None:
        """HostError, OSError: it cannot be started."""
        self.has_ipv6: Final = has_default_route(_read(_ROUTES))  # there, at this moment
        self._wire, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._keeper = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(_KEEPER), str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # ^C is for us, and we end it
                    cwd="/",
                )
            except OSError as error:
                self._wire.close()
                raise HostError(
                    f"cannot start a helper outside of our namespaces: {error.strerror}"
                ) from error
        self._wire.setblocking(False)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._answer: asyncio.Future[dict[str, Any]] | None = None
        self._ended: asyncio.Future[str] | None = None
        self._closed = False

    @property
    def is_closed(self) -> bool:
        """Whether it is over: closed, or the keeper was killed."""
        return self._closed

    async def run(self, command: Sequence[str]) -> "asyncio.Future[str]":
        """Run a helper; the result is done when it has ended, with its last words and how it ended.

        HostError: it cannot be run, one runs already, or the keeper was killed.
        """
        if self._closed:
            raise HostError(f"cannot run {command[0]}: its keeper has ended; start vbackend again")
        if self._ended is not None or self._answer is not None:
            raise HostError(f"cannot run {command[0]}: a helper runs already")
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._wire, self._read)
        self._answer = self._loop.create_future()
        self._ended = ended = self._loop.create_future()
        try:
            self._wire.send(json.dumps({"run": list(command)}).encode())
            answer = await asyncio.wait_for(self._answer, _PATIENCE_S)
        except (OSError, TimeoutError) as error:
            self._ended = None
            raise HostError(f"cannot run {command[0]}: its keeper does not answer ({error})") from error
        except asyncio.CancelledError:
            await self.stop()  # nobody hears of it
            raise
        finally:
            self._answer = None
        if "error" in answer:
            raise HostError(f"cannot run {answer['error']}")
        return ended

    async def stop(self) -> None:
        """End the helper and wait for that; nothing when none runs. HostError: it does not end."""
        if self._ended is None or self._closed:
            return
        ended = self._ended
        with contextlib.suppress(
            ConnectionError
        ):  # the keeper was killed: that is read next, and settles `ended`
            self._wire.send(json.dumps({"stop": True}).encode())
        try:
            await asyncio.wait_for(asyncio.shield(ended), _PATIENCE_S)
        except TimeoutError as error:
            raise HostError(
                "a helper outside of our namespaces does not end; see `ps -ef --forest`"
            ) from error

    def close(self) -> None:
        """End the keeper, and with it the helper; a second call does nothing. Blocks until it is gone."""
        self._lost()
        self._keeper.wait(_PATIENCE_S)

    def _read(self) -> None:
        try:
            message = self._wire.recv(_MOST)
        except BlockingIOError:
            return
        except ConnectionError:
            message = b""
        if not message:
            log.error("the keeper outside of our namespaces has ended, and its helper with it")
            self._lost()
            self._keeper.poll()
            return
        told = json.loads(message)
        if "error" in told:
            self._settle(self._ended, told["error"])
            self._ended = None
        if "ended" not in told:
            self._settle(self._answer, told)
        elif self._ended is not None:
            self._settle(self._ended, "\n".join([*told["said"].splitlines(), _end(told["ended"])]))
            self._ended = None

    def _lost(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._wire)
            self._settle(self._answer, {"error": "anything: its keeper has ended"})
            self._settle(self._ended, "its keeper has ended")
        self._ended = None
        self._wire.close()

    @staticmethod
    def _settle(future: "asyncio.Future[Any] | None", result: object) -> None:
        if future is not None and not future.done():
            future.set_result(result)


def has_default_route(table: str) -> bool:
    """Whether a table as in /proc/net/ipv6_route has a default route that leads anywhere. Pure."""
    for line in table.splitlines():
        destination, length, *_, flags, device = line.split()
        if (
            int(destination, 16) == int(length, 16) == 0
            and device != "lo"
            and not int(flags, 16) & _RTF_REJECT
        ):
            return True
    return False


def _read(path: Path) -> str:
    """Its text; "" where this kernel has no IPv6."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _end(status: int) -> str:
    """How a process ended, in words."""
    return (
        f"it was killed by {signal.Signals(-status).name}" if status < 0 else f"it ended with status {status}"
    )
