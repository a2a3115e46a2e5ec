"""The agent's host side against a guest that the test plays, and against the agent of our images, run on the host."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from typing import Final

import pytest
import pytest_asyncio

from vbackend.errors import ConfigError
from vbackend.images.recipe import RECIPES
from vbackend.qemu import agent as module
from vbackend.qemu.agent import Agent, AgentError, CommandTimeoutError, Result
from vbackend.qemu.agent_lines import (
    CHUNK,
    COMMAND_MAX,
    WINDOW,
    Data,
    Drop,
    End,
    Fail,
    Hello,
    Line,
    Room,
    Run,
    Signal,
    Stream,
    encode,
)

PROGRAM: Final = str(RECIPES / "overlay/sbin/agent")


def end(job: int, status: int = 0, stdout: bytes = b"", stderr: bytes = b"") -> bytes:
    """All that a guest says of a command without input."""
    wrote: list[tuple[Stream, bytes]] = [("out", stdout), ("err", stderr)]
    parts = [
        encode(Data(job, stream, data[start : start + CHUNK]))
        for stream, data in wrote
        for start in range(0, len(data), CHUNK)
    ]
    return b"".join(parts) + encode(End(job, status))


def run_line(job: int, command: str, *, has_input: bool = False) -> bytes:
    return encode(Run(job, command, has_input)).strip()


def kill_line(job: int) -> bytes:
    return encode(Signal(job, 9)).strip()


def test_result_as_text() -> None:
    result = Result(b"\xc3\xbc\n", b"\xff", 1)
    assert (result.text, result.errors) == ("ü\n", "\ufffd")


class FakeGuest:
    """The guest's end of the port, played by the test."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._rest = b""

    async def line(self) -> bytes:
        while b"\n" not in self._rest:
            self._rest += await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.sock, 65536), 10)
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)


@pytest_asyncio.fixture
async def pair() -> AsyncIterator[tuple[Agent, FakeGuest]]:
    ours, theirs = socket.socketpair()
    with theirs:
        async with Agent(ours) as agent:
            yield agent, FakeGuest(theirs)


async def test_answers_in_any_order(pair: tuple[Agent, FakeGuest]) -> None:
    agent, guest = pair
    await guest.send(encode(Hello()))
    await asyncio.wait_for(agent.wait_started(), 10)
    first = asyncio.create_task(agent.run("one"))
    assert await guest.line() == run_line(1, "one")
    second = asyncio.create_task(agent.run("two"))
    assert await guest.line() == run_line(2, "two")
    await guest.send(end(99) + end(2, 0, b"2") + end(2, 0, b"again") + end(1, 1, b"1"))
    assert (await second, await first) == (Result(b"2", b"", 0), Result(b"1", b"", 1))


async def test_timeout_kills_and_shows_what_came(pair: tuple[Agent, FakeGuest]) -> None:
    agent, guest = pair
    running = asyncio.create_task(agent.run("sleep", timeout=0.01))
    assert (await guest.line()).startswith(b"run 1 ")
    assert await guest.line() == kill_line(1)
    await guest.send(end(1, 137, b"partly"))
    with pytest.raises(
        CommandTimeoutError, match=r"'sleep' took more than 0.01 s; stdout b'partly'"
    ) as caught:
        await running
    assert caught.value.result == Result(b"partly", b"", 137)


async def test_a_timeout_shows_only_the_end_of_much_output(pair: tuple[Agent, FakeGuest]) -> None:
    agent, guest = pair
    running = asyncio.create_task(agent.run("yes", timeout=0.01))
    await guest.line()
    await guest.line()
    await guest.send(end(1, 137, b"y\n" * 100_000))
    with pytest.raises(CommandTimeoutError) as caught:
        await running
    assert "stdout ...b'y" in str(caught.value)
    assert len(str(caught.value)) < 2000


async def test_a_cancelled_command_is_killed(pair: tuple[Agent, FakeGuest]) -> None:
    agent, guest = pair
    running = asyncio.create_task(agent.run("sleep 100"))
    assert (await guest.line()).startswith(b"run 1 ")
    running.cancel()
    assert await guest.line() == b"drop 1"
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_timeout_of_a_guest_that_hangs(
    pair: tuple[Agent, FakeGuest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KILL_GRACE_S", 0.01)
    agent, _ = pair
    with pytest.raises(CommandTimeoutError, match="the guest did not answer") as caught:
        await agent.run("true", timeout=0.01)
    assert caught.value.result is None


async def test_started_command_survives_a_wait(pair: tuple[Agent, FakeGuest]) -> None:
    agent, guest = pair
    job = await agent.start("server")
    with pytest.raises(TimeoutError):
        await agent.wait(job, timeout=0.01)
    await guest.send(end(job, 0, b"served"))
    assert (await agent.wait(job)).stdout == b"served"


async def test_what_was_started_has_been_said(pair: tuple[Agent, FakeGuest]) -> None:
    """Who does not come back to the event loop for a while has it run all the same."""
    agent, guest = pair
    job = await agent.start("x")
    assert guest.sock.recv(100) == run_line(job, "x") + b"\n"


async def test_a_command_that_is_cancelled_at_once_does_not_stay(pair: tuple[Agent, FakeGuest]) -> None:
    agent, guest = pair
    running = asyncio.create_task(agent.run("x"))
    asyncio.get_running_loop().call_soon(running.cancel)
    await asyncio.wait((running,))
    assert [await guest.line(), await guest.line()] == [run_line(1, "x"), b"drop 1"]


async def test_reset_ends_what_ran(pair: tuple[Agent, FakeGuest]) -> None:
    agent, guest = pair
    await guest.send(encode(Hello()))
    await asyncio.wait_for(agent.wait_started(), 10)
    job = await agent.start("x")
    await guest.send(b"out 1 :aG" + encode(Hello()))
    with pytest.raises(AgentError, match="the guest was reset"):
        await agent.wait(job)
    assert agent.starts == 2
    await asyncio.wait_for(agent.wait_started(2), 10)


async def test_guest_that_is_gone(pair: tuple[Agent, FakeGuest]) -> None:
    agent, guest = pair
    waiting = asyncio.create_task(agent.wait_started())
    running = asyncio.create_task(agent.run("x"))
    await guest.line()
    guest.sock.close()
    with pytest.raises(AgentError, match="did not start: its agent's port was closed"):
        await waiting
    with pytest.raises(AgentError, match="did not end: its agent's port was closed"):
        await running
    with pytest.raises(AgentError, match="cannot run 'y'"):
        await agent.run("y")


async def test_close_ends_what_ran_and_may_be_repeated(pair: tuple[Agent, FakeGuest]) -> None:
    agent, guest = pair
    running = asyncio.create_task(agent.run("x"))
    await guest.line()
    await agent.close()
    with pytest.raises(AgentError, match="was closed"):
        await running
    await agent.close()


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (b"x" * (2 * COMMAND_MAX + 101), "it sent a line of more than 262242 bytes"),
        (
            encode(Data(1, "out", bytes(WINDOW - 9))) + encode(Data(1, "out", bytes(10))),
            "it sent more output than",
        ),
    ],
)
async def test_a_guest_that_breaks_the_rules_is_given_up(
    pair: tuple[Agent, FakeGuest], says: bytes, words: str
) -> None:
    agent, guest = pair
    job = await agent.start("x")
    other = agent.open("y", has_input=False)  # nobody takes what it writes
    assert other.job == job + 1
    await guest.send(says.replace(b"out 1 ", b"out 2 "))
    with pytest.raises(AgentError, match=f"did not end: its agent broke the rules: {words}"):
        await agent.wait(job)
    with pytest.raises(AgentError, match="cannot run 'z': its agent broke the rules"):
        await agent.run("z")


async def test_what_a_guest_says_of_nobodys_commands(pair: tuple[Agent, FakeGuest]) -> None:
    agent, guest = pair
    running = asyncio.create_task(agent.run("x"))
    await guest.line()
    nonsense: list[Line] = [
        *(Data(99, "out", bytes(WINDOW)),) * 3,
        *(Room(99, "in", 5), End(99, 0), Fail(99, "no"), Run(1, "y", False), Signal(1, 9), Drop(None)),
        *(Data(1, "in", b"?"), Room(1, "out", 5)),
    ]
    await guest.send(b"".join(encode(line) for line in nonsense) + end(1, 3))
    assert await running == Result(b"", b"", 3)


async def test_a_guest_that_does_not_read(
    pair: tuple[Agent, FakeGuest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BACKLOG_MAX", 1 << 20)
    agent, _ = pair
    with pytest.raises(AgentError, match="its agent does not read what it is told"):
        await asyncio.gather(*(agent.run("x" * COMMAND_MAX) for _ in range(20)))


async def test_a_command_that_cannot_be_started(pair: tuple[Agent, FakeGuest]) -> None:
    agent, guest = pair
    for command in ("x" * (COMMAND_MAX + 1), "a\0b"):
        with pytest.raises(ConfigError, match="has a NUL, or more than 131071 bytes"):
            await agent.run(command)
    running = asyncio.create_task(agent.run("x"))
    await guest.line()
    await guest.send(encode(Fail(1, "the guest cannot start it: no memory")))
    with pytest.raises(AgentError, match="cannot start it: no memory"):
        await running


async def test_too_much_output(pair: tuple[Agent, FakeGuest]) -> None:
    agent, guest = pair
    running = asyncio.create_task(agent.run("yes", most=1 << 20))
    await guest.line()
    for _ in range(4):
        await guest.send(encode(Data(1, "out", bytes(WINDOW))))
        for _ in range(4):
            assert (await guest.line()).startswith(b"room 1 out ")
    await guest.send(encode(Data(1, "out", b"x")))
    with pytest.raises(ConfigError, match="'yes' wrote more than 1 MiB, and was killed"):
        await running
    assert await guest.line() == b"drop 1"


async def test_a_guest_that_is_set_back(pair: tuple[Agent, FakeGuest]) -> None:
    agent, guest = pair
    running = asyncio.create_task(agent.run("x"))
    await guest.line()
    agent.set_back()
    with pytest.raises(AgentError, match="set back to a snapshot"):
        await running
    assert [await guest.line(), await guest.line()] == [b"", b"drop all"]


@pytest.mark.parametrize("started", [True, False])
@pytest.mark.parametrize("words", [b"", b"end 5 0\n"], ids=["alive", "late"])
async def test_taken_over(started: bool, words: bytes) -> None:
    """An agent that said hello to somebody else long ago answers; what was that one's is nobody's."""
    ours, theirs = socket.socketpair()
    with theirs:
        guest = FakeGuest(theirs)
        async with Agent(ours, first_job=1000, started=started) as agent:
            taking = asyncio.create_task(agent.take_over(timeout=10))
            if started:
                assert await guest.line() == b""  # ends half a line of the predecessor's
                assert await guest.line() == b"drop all"
            await guest.send(words)
            assert await guest.line() == b""
            assert await guest.line() == run_line(1000, "true")
            await guest.send(b"" if started else encode(Hello()))
            await guest.send(end(1000, 0))
            await taking
            assert agent.starts == 1


async def test_taken_over_and_reset_meanwhile() -> None:
    """What was asked before the hello may be lost with the reset, so it is asked again."""
    ours, theirs = socket.socketpair()
    with theirs:
        guest = FakeGuest(theirs)
        async with Agent(ours, first_job=1000, started=True) as agent:
            assert [await guest.line(), await guest.line()] == [b"", b"drop all"]
            taking = asyncio.create_task(agent.take_over("test -e /x", timeout=10))
            for job in (1000, 1001):
                assert await guest.line() == b""
                assert await guest.line() == run_line(job, "test -e /x")
                await guest.send(encode(Hello()) if job == 1000 else end(1001, 3))
            assert (await taking).status == 3
            assert agent.starts == 2
            taking = asyncio.create_task(agent.take_over(timeout=10))
            await guest.line()
            theirs.shutdown(socket.SHUT_RDWR)
            with pytest.raises(AgentError, match="QEMU has ended"):
                await taking


async def test_a_guest_that_is_set_up_again_keeps_its_commands(pair: tuple[Agent, FakeGuest]) -> None:
    agent, guest = pair
    await guest.send(encode(Hello()))
    await asyncio.wait_for(agent.wait_started(), 10)
    job = await agent.start("x")
    taking = asyncio.create_task(agent.take_over(timeout=10))
    assert [await guest.line() for _ in range(3)] == [run_line(job, "x"), b"", run_line(job + 1, "true")]
    await guest.send(end(job + 1) + end(job, 3))
    await taking
    assert (await agent.wait(job)).status == 3


# The agent of our images


@pytest_asyncio.fixture
async def images_agent() -> AsyncIterator[Agent]:
    ours, theirs = socket.socketpair()
    with theirs:
        child = await asyncio.create_subprocess_exec("perl", "-Mstrict", PROGRAM, "-", stdin=theirs.fileno())
    async with Agent(ours) as agent:
        await asyncio.wait_for(agent.wait_started(), 20)
        yield agent
    assert await asyncio.wait_for(child.wait(), 20) == 1


@pytest.mark.parametrize(
    ("command", "given", "result"),
    [
        ("echo out; echo err >&2; exit 3", b"", Result(b"out\n", b"err\n", 3)),
        ("kill -TERM $$", b"", Result(b"", b"", 128 + 15)),
        ("cat; echo end", b"", Result(b"end\n", b"", 0)),
        ("cat", bytes(range(256)), Result(bytes(range(256)), b"", 0)),
        ("head -c 3", b"x" * 10_000_000, Result(b"xxx", b"", 0)),
        ("exec <&-; echo on", b"x" * 10_000_000, Result(b"on\n", b"", 0)),
        ("exec >&- 2>&-; exit 5", b"", Result(b"", b"", 5)),
        ("printf '%s' 'ü \n'", b"", Result("ü \n".encode(), b"", 0)),
        ("no-such-program", b"", Result(b"", b"sh: 1: no-such-program: not found\n", 127)),
    ],
)
async def test_commands_of_our_images(
    images_agent: Agent, command: str, given: bytes, result: Result
) -> None:
    found = await images_agent.run(command, input=given)
    assert found.stderr.replace(b"/bin/sh: ", b"sh: ") == result.stderr
    assert (found.stdout, found.status) == (result.stdout, result.status)


async def test_much_in_and_out_of_our_images(images_agent: Agent) -> None:
    data = os.urandom(8 << 20)
    both = await asyncio.gather(*(images_agent.run(f"cat >&{fd}", input=data) for fd in (1, 2)))
    assert [(each.stdout, each.stderr) for each in both] == [(data, b""), (b"", data)]


async def test_our_image_waits_for_who_does_not_read(images_agent: Agent) -> None:
    slow = images_agent.open("yes", has_input=False)
    async with asyncio.timeout(20):
        got = 0
        while got < WINDOW:
            line = await slow.next()
            assert isinstance(line, Data)
            got += len(line.data)
        assert (await images_agent.run("echo other")).text == "other\n"
        assert got == WINDOW
        slow.grant("out", got)
        assert isinstance(await slow.next(), Data)
    slow.drop()


async def test_what_is_left_behind_runs_on_in_our_images(images_agent: Agent) -> None:
    """A command ends with its shell, whoever has its output; what comes later is nobody's, and harms nobody."""
    result = await images_agent.run("(while echo more >&2 && sleep 0.01; do :; done) & echo $!", timeout=20)
    number = int(result.text)
    await images_agent.run("sleep 0.2")
    assert (await images_agent.run(f"kill {number}")).status == 0


@pytest.mark.parametrize(("number", "status"), [(2, 130), (9, 137)])
async def test_signals_of_our_images(images_agent: Agent, number: int, status: int) -> None:
    """They reach all processes of the command."""
    command = images_agent.open("sleep 100 | sleep 100", has_input=False)
    await images_agent.run("true")  # later than the start of the other
    command.signal(number)
    assert await asyncio.wait_for(command.next(), 20) == End(command.job, status)


async def test_all_dropped_in_our_images(images_agent: Agent) -> None:
    command = images_agent.open("echo $$; sleep 100; true", has_input=False)
    line = await asyncio.wait_for(command.next(), 20)
    assert isinstance(line, Data)
    images_agent.set_back()
    gone = f"i=0; while kill -0 {int(line.data)} && [ $i -lt 500 ]; do i=$((i + 1)); sleep 0.02; done; [ $i -lt 500 ]"
    assert (await images_agent.run(gone)).status == 0
