"""The host's side of a guest's agent: runs commands in a guest over a virtio-serial port, without any network.

`Agent` owns the socket behind the port; agent_lines.py has what is said on it, agent_command.py a command that runs.
A lab's daemon speaks the same to its clients (vbackend/lab/relay.py), so the other side need not be a guest.

Rule: everything from the guest is hostile. It may send of a stream what there is room for, and there is room again for
what was handed on: a slow reader makes the command wait, and memory is bounded. A guest that does not keep to that is
given up, with an AgentError for each of its commands.
"""

import asyncio
import itertools
import signal
import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, Self

from vbackend.errors import ConfigError, PeerError
from vbackend.qemu.agent_command import AgentError, Command
from vbackend.qemu.agent_lines import (
    COMMAND_MAX,
    WINDOW,
    Data,
    Drop,
    End,
    Fail,
    Hello,
    Line,
    Lines,
    Room,
    Run,
    encode,
)

__all__ = [
    "OUTPUT_MAX",
    "PORT_NAME",
    "Agent",
    "AgentError",
    "CommandTimeoutError",
    "Result",
]

PORT_NAME: Final = "org.vbackend.agent"
OUTPUT_MAX: Final = 64 << 20  # bytes of stdout, and of stderr, that `Agent.run` gathers
KILL_GRACE_S: Final = 10.0
_SHOWN: Final = 500  # bytes of output in an error
_BACKLOG: Final = 1 << 18  # bytes for the guest that wait; above, input waits too
_BACKLOG_MAX: Final = 8 << 20


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


class Agent:
    """Commands in one guest, any number at a time, for as long as its port's socket lives.

    `first_job`: where its numbers begin. Whoever takes over a guest that others have used begins at random, so that
    what still comes of theirs is nobody's. `started`: the guest's agent has said hello to one of them, whose commands
    are killed. `end`: what it means when the socket is closed.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        first_job: int = 1,
        started: bool = False,
        end: str = "its agent's port was closed: QEMU has ended",
    ) -> None:
        sock.setblocking(False)
        self._sock: Final = sock
        self._end: Final = end
        self._commands: Final[dict[int, Command]] = {}
        self._started: Final[dict[int, tuple[Command, asyncio.Task[Result]]]] = {}
        self._ids: Final = itertools.count(first_job)
        self._starts = int(started)
        self._changed: Final = asyncio.Event()
        self._lost: str | None = None
        self._backlog: Final = bytearray()
        self._to_send: Final = asyncio.Event()
        self._sendable: Final = asyncio.Event()
        self._sendable.set()
        self._all_sent: Final = asyncio.Event()
        self._all_sent.set()
        self._tasks: Final = (
            asyncio.create_task(self._read(), name="guest agent"),
            asyncio.create_task(self._write(), name="to the guest agent"),
        )
        if started:
            self._drop_all()

    @property
    def starts(self) -> int:
        """How often the agent said hello: more than once means that the guest was reset."""
        return self._starts

    async def wait_started(self, times: int = 1) -> None:
        """Wait until the agent has started that often. AgentError when the guest is gone; no deadline of its own."""
        while self._starts < times and self._lost is None:
            self._changed.clear()
            await self._changed.wait()
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
            self._put(b"\n")  # ends what a reset cut off
            try:
                result = await self.run(command, timeout=deadline - loop.time())
            except AgentError:
                if self._lost is not None or self._starts == seen:
                    raise
            else:
                self._starts = max(1, self._starts)
                return result

    async def run(
        self, command: str, *, input: bytes = b"", timeout: float = 30.0, most: int = OUTPUT_MAX
    ) -> Result:
        """Run a shell script and wait for its end. Its status is not judged here. `input`: its stdin.

        CommandTimeoutError after `timeout` seconds (the command is killed, as when this is cancelled); AgentError when
        the guest goes away or restarts meanwhile. ConfigError: it writes more than `most` bytes (and is killed), or
        cannot be started.
        """
        job = self._start(command, input, most)
        try:
            return await self.wait(job, timeout=timeout)
        except TimeoutError:
            await self.kill(job)
            try:
                result = await self.wait(job, timeout=KILL_GRACE_S)
            except TimeoutError:
                result = None
            raise CommandTimeoutError(command, timeout, result) from None
        finally:
            if job in self._started:
                await self._cancel(job)

    async def start(self, command: str, *, input: bytes = b"", most: int = OUTPUT_MAX) -> int:
        """Start a shell script and do not wait for its end; the number is for `wait` and `kill`. Errors as `open`."""
        job = self._start(command, input, most)
        await self._all_sent.wait()
        return job

    async def wait(self, job: int, *, timeout: float = 30.0) -> Result:
        """The result of a started command. TimeoutError leaves it running. Other errors as `run`."""
        gathering = self._started[job][1]
        done, _ = await asyncio.wait((gathering,), timeout=timeout)
        if not done:
            raise TimeoutError
        self._started.pop(job, None)
        return gathering.result()

    async def kill(self, job: int) -> None:
        """SIGKILL to a started command; its result can still be waited for. One that has ended stays ended."""
        self._started[job][0].signal(signal.SIGKILL)

    def open(self, command: str, *, has_input: bool, window: int = WINDOW) -> Command:
        """Start a shell script whose streams are the caller's to carry; it ends by itself, or by `Command.drop`.

        AgentError: the guest is gone. ConfigError: the script is too long, or has a NUL.
        """
        if self._lost is not None:
            raise AgentError(f"the guest cannot run {command[:_SHOWN]!r}: {self._lost}")
        if len(command.encode()) > COMMAND_MAX or "\0" in command:
            raise ConfigError(
                f"the command {command[:40]!r}... has a NUL, or more than {COMMAND_MAX} bytes: "
                f"it has {len(command)} characters; give what is long as input"
            )
        job = next(self._ids)
        running = Command(self, job, window)
        self._commands[job] = running
        self.tell(Run(job, command, has_input, window))
        return running

    def set_back(self) -> None:
        """The guest is what it was once, and knows nothing of what has run since: all that runs fails."""
        self._fail_all("the guest was set back to a snapshot")
        self._drop_all()

    async def close(self) -> None:
        """Forget the guest; commands that run fail with AgentError. A second call does nothing."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._lose("its agent's port was closed")
        await asyncio.gather(*(task for _, task in self._started.values()), return_exceptions=True)
        self._sock.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # For `Command`

    def tell(self, line: Line) -> None:
        """Say this to the guest, when it listens."""
        self._put(encode(line))

    async def wait_sendable(self) -> None:
        """Wait until the guest has taken most of what it was told, or is gone."""
        await self._sendable.wait()

    def forget(self, job: int) -> None:
        """This one is over."""
        self._commands.pop(job, None)

    def _start(self, command: str, input: bytes, most: int) -> int:
        running = self.open(command, has_input=bool(input))
        gathering = asyncio.create_task(_gather(running, command, input, most), name="command in a guest")
        gathering.add_done_callback(lambda task: task.cancelled() or task.exception())  # may be nobody's
        self._started[running.job] = running, gathering
        return running.job

    def _drop_all(self) -> None:
        self._put(b"\n")  # ends what was cut off
        self.tell(Drop(None))

    def _put(self, data: bytes) -> None:
        if self._lost is not None:
            return
        self._backlog.extend(data)
        self._to_send.set()
        self._all_sent.clear()
        if len(self._backlog) > _BACKLOG:
            self._sendable.clear()
        if len(self._backlog) > _BACKLOG_MAX:
            self._lose("its agent does not read what it is told")

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._to_send.wait()
                part = bytes(self._backlog[:_BACKLOG])
                await loop.sock_sendall(self._sock, part)
                del self._backlog[: len(part)]
                if not self._backlog:
                    self._to_send.clear()
                    self._all_sent.set()
                if len(self._backlog) <= _BACKLOG:
                    self._sendable.set()
        except OSError as error:
            self._lose(f"its agent's port is gone ({error.strerror})")

    async def _read(self) -> None:
        lines = Lines()
        loop = asyncio.get_running_loop()
        reason = self._end
        try:
            while data := await loop.sock_recv(self._sock, 1 << 18):
                for line in lines.feed(data):
                    self._handle(line)
        except OSError as error:
            reason = f"its agent's port failed ({error.strerror})"
        except PeerError as error:
            reason = f"its agent broke the rules: it sent {error}"
        self._lose(reason)

    def _handle(self, line: Line) -> None:
        match line:
            case Hello():
                if self._starts:
                    self._fail_all("the guest was reset")
                self._starts += 1
                self._changed.set()
            case Data() | Room() | End() | Fail():
                if (command := self._commands.get(line.job)) is not None:
                    command.take(line)

    async def _cancel(self, job: int) -> None:
        running, gathering = self._started.pop(job)
        gathering.cancel()
        running.drop()
        await asyncio.gather(gathering, return_exceptions=True)

    def _lose(self, reason: str) -> None:
        if self._lost is None:
            self._lost = reason
            self._changed.set()
            self._sendable.set()
            self._all_sent.set()
            self._backlog.clear()
        self._fail_all(self._lost)

    def _fail_all(self, reason: str) -> None:
        for command in list(self._commands.values()):
            command.take(Fail(command.job, f"the guest's command did not end: {reason}"))


async def _gather(running: Command, command: str, input: bytes, most: int) -> Result:
    """Carry a command's streams from and to memory; it is dropped when that is cancelled or becomes too much."""
    wrote = {"out": bytearray(), "err": bytearray()}
    rest = memoryview(input)

    async def source(count: int) -> bytes:
        nonlocal rest
        part, rest = bytes(rest[:count]), rest[count:]
        return part

    async def sink(stream: Literal["out", "err"], data: bytes) -> None:
        wrote[stream] += data
        if len(wrote[stream]) > most:
            raise ConfigError(
                f"in the guest, {command[:_SHOWN]!r} wrote more than {most >> 20} MiB, and was killed; "
                "let it write to a file there"
            )

    try:
        status = await running.carry(source if input else None, sink)
    finally:
        running.drop()
    return Result(bytes(wrote["out"]), bytes(wrote["err"]), status)
