"""The host's side of a guest's agent: runs commands in a guest over a virtio-serial port, without any network.

`Codec` is pure: bytes from the port in, events out. `Agent` owns the socket behind the port. The lines are described
in vm-images/README.md. Everything from the guest is hostile: lines are bounded, what makes no sense is a `PeerError`.
"""

import asyncio
import base64
import binascii
import itertools
import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from vbackend.errors import PeerError

__all__ = [
    "PORT_NAME",
    "Agent",
    "AgentError",
    "Codec",
    "CommandTimeoutError",
    "Ended",
    "Hello",
    "Result",
    "kill_line",
    "run_line",
]

PORT_NAME: Final = "org.vbackend.agent"
MOST_LINE: Final = 128 << 20  # a guest's output is bounded by its memory; this bounds ours
KILL_GRACE_S: Final = 10.0
_SHOWN: Final = 500  # bytes of output in an error


class AgentError(PeerError):
    """The guest went away, restarted, or answered with something that is no answer."""


class CommandTimeoutError(TimeoutError):
    """A command did not end in time; it was killed. `result` is what it had written, None when not even that came."""

    def __init__(self, command: str, timeout: float, result: "Result | None") -> None:
        wrote = (
            "the guest did not answer"
            if result is None
            else f"stdout {_end_of(result.stdout)}, stderr {_end_of(result.stderr)}"
        )
        super().__init__(f"in the guest, {command!r} took more than {timeout:g} s; {wrote}")
        self.result: Final = result


def _end_of(output: bytes) -> str:
    return repr(output) if len(output) <= _SHOWN else f"...{output[-_SHOWN:]!r}"


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended. Output is bytes; `text` and `errors` are for the common case."""

    stdout: bytes
    stderr: bytes
    status: int  # the shell's: 128 + signal when a signal ended it

    @property
    def text(self) -> str:
        return self.stdout.decode(errors="replace")

    @property
    def errors(self) -> str:
        return self.stderr.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Hello:
    """The agent has started: all commands before are gone."""


@dataclass(frozen=True, slots=True)
class Ended:
    job: int
    result: Result


class Codec:
    """Splits what the guest sends into events, wherever it was cut."""

    def __init__(self, most_line: int) -> None:
        self._most = most_line
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Hello | Ended]:
        """The events that `data` completes.

        PeerError for a line that is too long. One that makes no sense is what a reset cut off when a hello follows:
        it is forgotten.
        """
        *whole, last = data.split(b"\n")
        events = []
        for line in whole:
            event = _parse(bytes(self._rest + line))
            self._rest.clear()
            if event is not None:
                events.append(event)
        self._rest += last
        if len(self._rest) > self._most:
            raise AgentError(f"the guest's agent sent a line of more than {self._most} bytes")
        return events


def run_line(job: int, command: str) -> bytes:
    """Ask the guest to run a shell script."""
    return b"run %d %s\n" % (job, base64.b64encode(command.encode()))


def kill_line(job: int) -> bytes:
    """Ask the guest to kill what a `run_line` started."""
    return b"kill %d\n" % job


def _parse(line: bytes) -> Hello | Ended | None:
    match line.split(b" "):
        case [b"hello", b"1"]:
            return Hello()
        case [b"end", job, status, out, err] if out.startswith(b":") and err.startswith(b":"):
            try:
                output, errors = (base64.b64decode(field[1:], validate=True) for field in (out, err))
                return Ended(int(job), Result(output, errors, int(status)))
            except (binascii.Error, ValueError):
                return None
    return None


class Agent:
    """Commands in one guest, any number at a time, for as long as its port's socket lives.

    `first_job`: where its numbers begin. Whoever takes over a guest that others have used begins at random, so that
    what still comes of theirs is nobody's. `started`: the guest's agent has said hello to one of them.
    """

    def __init__(self, sock: socket.socket, *, first_job: int = 1, started: bool = False) -> None:
        sock.setblocking(False)
        self._sock: Final = sock
        self._jobs: Final[dict[int, asyncio.Future[Result]]] = {}
        self._ids: Final = itertools.count(first_job)
        self._starts = int(started)
        self._changed: Final = asyncio.Condition()
        self._lost: str | None = None
        self._sending: Final = asyncio.Lock()
        self._reader: Final = asyncio.create_task(self._read(), name="guest agent")

    @property
    def starts(self) -> int:
        """How often the agent said hello: more than once means that the guest was reset."""
        return self._starts

    async def wait_started(self, times: int = 1) -> None:
        """Wait until the agent has started that often. AgentError when the guest is gone; no deadline of its own."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._starts >= times or self._lost is not None)
        if self._starts < times:
            raise AgentError(f"the guest's agent did not start: {self._lost}")

    async def take_over(self, command: str = "true", *, timeout: float = 30.0) -> Result:
        """Wait until the agent answers to `command`, whether it says hello or did so to somebody else long ago.

        A guest that is reset meanwhile is asked again. AgentError: the guest is gone; CommandTimeoutError: no answer.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            seen = self._starts
            await self._send(b"\n")  # ends what the predecessor's end cut off
            try:
                result = await self.run(command, timeout=deadline - loop.time())
            except AgentError:
                if self._lost is not None or self._starts == seen:
                    raise
            else:
                self._starts = max(1, self._starts)
                return result

    async def run(self, command: str, *, timeout: float = 30.0) -> Result:
        """Run a shell script and wait for its end. Its status is not judged here.

        CommandTimeoutError after `timeout` seconds (the command is killed, as when this is cancelled); AgentError when
        the guest goes away or restarts meanwhile.
        """
        job = await self.start(command)
        try:
            return await self.wait(job, timeout=timeout)
        except TimeoutError:
            await self.kill(job)
            try:
                result = await self.wait(job, timeout=KILL_GRACE_S)
            except TimeoutError:
                result = None
            raise CommandTimeoutError(command, timeout, result) from None
        except asyncio.CancelledError:
            await self.kill(job)
            raise
        finally:
            self._jobs.pop(job, None)

    async def start(self, command: str) -> int:
        """Start a shell script and do not wait; the number is for `wait` and `kill`."""
        if self._lost is not None:
            raise AgentError(f"the guest cannot run {command!r}: {self._lost}")
        job = next(self._ids)
        self._jobs[job] = asyncio.get_running_loop().create_future()
        await self._send(run_line(job, command))
        return job

    async def wait(self, job: int, *, timeout: float = 30.0) -> Result:
        """The result of a started command. TimeoutError leaves it running."""
        result = await asyncio.wait_for(asyncio.shield(self._jobs[job]), timeout)
        del self._jobs[job]
        return result

    async def kill(self, job: int) -> None:
        """SIGKILL to a started command; its result can still be waited for. One that has ended stays ended."""
        await self._send(kill_line(job))

    async def close(self) -> None:
        """Forget the guest; commands that run fail with AgentError. A second call does nothing."""
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self._lose("its agent's port was closed")
        self._sock.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _send(self, line: bytes) -> None:
        async with self._sending:
            try:
                await asyncio.get_running_loop().sock_sendall(self._sock, line)
            except OSError as error:
                await self._lose(f"its agent's port is gone ({error.strerror})")

    async def _read(self) -> None:
        codec = Codec(MOST_LINE)
        loop = asyncio.get_running_loop()
        reason = "its agent's port was closed: QEMU has ended"
        try:
            while data := await loop.sock_recv(self._sock, 1 << 18):
                for event in codec.feed(data):
                    await self._handle(event)
        except OSError as error:
            reason = f"its agent's port failed ({error.strerror})"
        except AgentError as error:
            reason = str(error)
        await self._lose(reason)

    async def _handle(self, event: Hello | Ended) -> None:
        match event:
            case Ended(job, result):
                future = self._jobs.get(job)
                if future is not None and not future.done():
                    future.set_result(result)
            case Hello():
                if self._starts:
                    self._fail_all("the guest was reset")
                async with self._changed:
                    self._starts += 1
                    self._changed.notify_all()

    async def _lose(self, reason: str) -> None:
        if self._lost is None:
            async with self._changed:
                self._lost = reason
                self._changed.notify_all()
        self._fail_all(self._lost)

    def _fail_all(self, reason: str) -> None:
        for future in self._jobs.values():
            if not future.done():
                future.set_exception(AgentError(f"the guest's command did not end: {reason}"))
                future.exception()  # a command nobody waits for is no error
