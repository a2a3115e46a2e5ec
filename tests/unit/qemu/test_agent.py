import asyncio
import base64
import socket
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from vbackend.qemu import agent as module
from vbackend.qemu.agent import (
    Agent,
    AgentError,
    Codec,
    CommandTimeoutError,
    Ended,
    Hello,
    Result,
    kill_line,
    run_line,
)


def end(job: int, status: int = 0, stdout: bytes = b"", stderr: bytes = b"") -> bytes:
    return b"end %d %d :%s :%s\n" % (job, status, base64.b64encode(stdout), base64.b64encode(stderr))


@pytest.mark.parametrize(
    ("data", "events"),
    [
        (b"hello 1\n", [Hello()]),
        (b"\nhello 1\n", [Hello()]),
        (end(7, 3, b"out\n", bytes(range(256))), [Ended(7, Result(b"out\n", bytes(range(256)), 3))]),
        (b"end 1 0 : :\n", [Ended(1, Result(b"", b"", 0))]),
        # What a reset cut off, and nonsense.
        (b"end 1 0 :aGV\nhello 1\n", [Hello()]),
        (b"end 1 0 :aGV :\n", []),
        (b"end x 0 : :\n", []),
        (b"end 1 0 aa bb\n", []),
        (b"hello 2\n", []),
        (b"\xff\x00\n\n", []),
        (b"hello 1", []),
    ],
)
def test_events(data: bytes, events: list[Hello | Ended]) -> None:
    assert Codec(1000).feed(data) == events


def test_lines_are_bounded() -> None:
    codec = Codec(most_line=10)
    assert codec.feed(b"x" * 10) == []
    with pytest.raises(AgentError, match="more than 10 bytes"):
        codec.feed(b"x")


def test_commands_are_one_line() -> None:
    line = run_line(3, "echo a\necho 'ü'\n")
    verb, job, command = line.split()
    assert (verb, job, base64.b64decode(command).decode()) == (b"run", b"3", "echo a\necho 'ü'\n")
    assert line.count(b"\n") == 1
    assert run_line(1, "x" * 10_000).count(b"\n") == 1
    assert kill_line(3) == b"kill 3\n"


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
    await guest.send(b"\nhello 1\n")
    await asyncio.wait_for(agent.wait_started(), 10)
    first = asyncio.create_task(agent.run("one"))
    assert await guest.line() == run_line(1, "one").strip()
    second = asyncio.create_task(agent.run("two"))
    assert await guest.line() == run_line(2, "two").strip()
    await guest.send(end(99) + end(2, 0, b"2") + end(2, 0, b"again") + end(1, 1, b"1"))
    assert (await second, await first) == (Result(b"2", b"", 0), Result(b"1", b"", 1))


async def test_timeout_kills_and_shows_what_came(pair: tuple[Agent, FakeGuest]) -> None:
    agent, guest = pair
    running = asyncio.create_task(agent.run("sleep", timeout=0.01))
    assert (await guest.line()).startswith(b"run 1 ")
    assert await guest.line() == b"kill 1"
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
    assert await guest.line() == b"kill 1"
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


async def test_reset_ends_what_ran(pair: tuple[Agent, FakeGuest]) -> None:
    agent, guest = pair
    await guest.send(b"hello 1\n")
    await asyncio.wait_for(agent.wait_started(), 10)
    job = await agent.start("x")
    await guest.send(b"end 1 0 :aG\nhello 1\n")
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


async def test_endless_line_ends_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LINE", 1000)
    ours, theirs = socket.socketpair()
    with theirs:
        async with Agent(ours) as agent:
            with pytest.raises(AgentError, match="more than 1000 bytes"):
                await asyncio.gather(agent.run("x"), FakeGuest(theirs).send(b"x" * 2000))


@pytest.mark.parametrize("words", [b"", b"\nhello 1\n", b"end 5 0 :eA== :\n"], ids=["alive", "boots", "late"])
async def test_taken_over(words: bytes) -> None:
    """An agent that said hello to somebody else long ago answers; what was that one's is nobody's."""
    ours, theirs = socket.socketpair()
    with theirs:
        guest = FakeGuest(theirs)
        async with Agent(ours, first_job=1000) as agent:
            await guest.send(words)
            taking = asyncio.create_task(agent.take_over(timeout=10))
            assert await guest.line() == b""  # ends half a line of the predecessor's
            assert await guest.line() == run_line(1000, "true").strip()
            await guest.send(end(1000, 0))
            await taking
            assert agent.starts == 1


async def test_taken_over_and_reset_meanwhile() -> None:
    """What was asked before the hello may be lost with the reset, so it is asked again."""
    ours, theirs = socket.socketpair()
    with theirs:
        guest = FakeGuest(theirs)
        async with Agent(ours, first_job=1000, started=True) as agent:
            taking = asyncio.create_task(agent.take_over("test -e /x", timeout=10))
            for job in (1000, 1001):
                assert await guest.line() == b""
                assert await guest.line() == run_line(job, "test -e /x").strip()
                await guest.send(b"\nhello 1\n" if job == 1000 else end(1001, 3))
            assert (await taking).status == 3
            assert agent.starts == 2
            taking = asyncio.create_task(agent.take_over(timeout=10))
            await guest.line()
            theirs.shutdown(socket.SHUT_RDWR)
            with pytest.raises(AgentError, match="QEMU has ended"):
                await taking
