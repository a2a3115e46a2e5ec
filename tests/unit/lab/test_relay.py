"""A daemon's socket for commands in a guest: what a client says reaches the agent, and what that says comes back."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from vbackend.errors import HostError
from vbackend.lab import relay as module
from vbackend.lab.relay import Relays
from vbackend.qemu.agent import Agent, AgentError, Result
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
    Signal,
    encode,
)


class Talker:
    """One end of a socket, which speaks lines."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._lines = Lines()
        self._ready: list[Line] = []

    async def say(self, *lines: Line) -> None:
        data = b"".join(encode(line) for line in lines)
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def hear(self) -> Line:
        """EOFError: the other side has hung up."""
        async with asyncio.timeout(10):
            while not self._ready:
                data = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 20)
                if not data:
                    raise EOFError
                self._ready = self._lines.feed(data)
        return self._ready.pop(0)

    async def hear_all(self, expected: Sequence[Line]) -> None:
        assert [await self.hear() for _ in expected] == list(expected)


class Yard:
    """A guest that the test plays, its agent's host side, and the relays."""

    def __init__(self, folder: Path) -> None:
        ours, theirs = socket.socketpair()
        self.guest = Talker(theirs)
        self.agent = Agent(ours, first_job=100)
        self.relays = Relays(str(folder / "s"))

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Talker]:
        path = self.relays.start(self.agent)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            found = Talker(sock)
            assert await found.hear() == Hello()
            assert not Path(path).exists()
            yield found


@pytest_asyncio.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    found = Yard(tmp_path)
    with found.guest.sock:
        yield found
        await found.relays.close()
        await found.relays.close()
        await found.agent.close()


async def test_a_command(yard: Yard) -> None:
    async with yard.client() as client:
        await client.say(Run(1, "cat", True, 2 * WINDOW))
        await yard.guest.hear_all([Run(100, "cat", True, WINDOW)])
        await yard.guest.say(Room(100, "in", 50))
        await client.hear_all([Room(1, "in", 50)])
        await client.say(Data(1, "in", b"x\n"), Data(1, "in", b""), Signal(1, 2))
        await yard.guest.hear_all([Data(100, "in", b"x\n"), Data(100, "in", b""), Signal(100, 2)])
        await yard.guest.say(Data(100, "out", bytes(WINDOW // 4)), Data(100, "err", b"e"))
        heard = [await client.hear() for _ in range(5)]
        assert heard[-1] == Data(1, "err", b"e")
        await client.say(Room(1, "out", WINDOW // 4))
        await yard.guest.hear_all([Room(100, "out", WINDOW // 4)])
        await yard.guest.say(End(100, 3))
        await client.hear_all([End(1, 3)])


async def test_two_clients_have_the_same_numbers(yard: Yard) -> None:
    async with yard.client() as one, yard.client() as two:
        await one.say(Run(1, "one", False))
        await yard.guest.hear_all([Run(100, "one", False)])
        await two.say(Run(1, "two", False))
        await yard.guest.hear_all([Run(101, "two", False)])
        await yard.guest.say(Data(101, "out", b"2"), End(101, 2), End(100, 1))
        await two.hear_all([Data(1, "out", b"2"), End(1, 2)])
        await one.hear_all([End(1, 1)])


async def test_who_hangs_up_has_its_commands_killed(yard: Yard) -> None:
    async with yard.client() as client:
        await client.say(Run(1, "a", False), Run(2, "b", False), Drop(1))
        await yard.guest.hear_all([Run(100, "a", False), Run(101, "b", False), Drop(100)])
        await client.hear_all([Fail(1, "it was dropped")])
        await client.say(Run(1, "c", False), Drop(None), Run(3, "d", False))
        heard = [await yard.guest.hear() for _ in range(4)]
        assert set(heard[1:3]) == {Drop(101), Drop(102)}
    await yard.guest.hear_all([Drop(103)])
    async with yard.client() as client:
        await client.say(Run(1, "e", False))
    await yard.guest.hear_all([Run(104, "e", False), Drop(104)])


async def test_a_client_that_does_not_read_makes_only_itself_wait(yard: Yard) -> None:
    async with yard.client() as client, yard.client() as other:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await client.say(Run(1, "flood", False))
        await yard.guest.hear()
        await yard.guest.say(Data(100, "out", b"x" * WINDOW), Data(100, "err", b"y" * WINDOW))
        await other.say(Run(1, "quick", False))
        await yard.guest.hear_all([Run(101, "quick", False)])
        await yard.guest.say(End(101, 0), End(100, 5))
        await other.hear_all([End(1, 0)])
        wrote = {"out": b"", "err": b""}
        while isinstance(line := await client.hear(), Data):
            wrote[line.stream] += line.data
        assert (wrote, line) == ({"out": b"x" * WINDOW, "err": b"y" * WINDOW}, End(1, 5))


@pytest.mark.parametrize(
    "said",
    [
        [Run(1, "a", True), Run(1, "a", True)],
        [Run(number, "a", False) for number in range(17)],
        [Run(1, "a", True), Data(1, "in", b"without room")],
    ],
)
async def test_a_client_that_breaks_the_rules(yard: Yard, said: list[Line]) -> None:
    async with yard.client() as client:
        await client.say(*said)
        with pytest.raises(EOFError):
            await client.hear()
    async with yard.client() as client:
        await client.say(
            Data(7, "in", b"nobody's"), Room(7, "out", 5), Signal(7, 9), Drop(7), Hello(), End(7, 0)
        )
        await client.say(Run(1, "b", False))
        while not isinstance(line := await yard.guest.hear(), Run) or line.command != "b":
            assert isinstance(line, Run | Drop)


async def test_an_endless_line(yard: Yard) -> None:
    async with yard.client() as client:
        await asyncio.get_running_loop().sock_sendall(client.sock, b"x" * (3 * COMMAND_MAX))
        with pytest.raises((EOFError, ConnectionError)):
            await client.hear()


async def test_a_guest_that_goes_away(yard: Yard) -> None:
    async with yard.client() as client:
        await client.say(Run(1, "a", False))
        await yard.guest.hear()
        await yard.guest.say(Data(100, "out", b"last"))
        await client.hear_all([Data(1, "out", b"last")])
        yard.guest.sock.close()
        failed = await client.hear()
        assert isinstance(failed, Fail)
        assert "did not end: its agent's port was closed" in failed.why
        await client.say(Run(2, "b", False))
        failed = await client.hear()
        assert isinstance(failed, Fail)
        assert "the guest cannot run 'b'" in failed.why


async def test_an_agent_at_both_ends(yard: Yard) -> None:
    """What a client has is an `Agent`, too."""
    path = yard.relays.start(yard.agent)
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    async with Agent(sock, end="the daemon has ended") as agent:
        running = asyncio.create_task(agent.run("x"))
        await yard.guest.hear_all([Run(100, "x", False)])
        await yard.guest.say(Data(100, "err", b"e"), End(100, 9))
        assert await running == Result(b"", b"e", 9)
        running = asyncio.create_task(agent.run("x"))
        await yard.guest.hear()
        await yard.relays.close()
        with pytest.raises(AgentError, match="did not end: "):
            await running


async def test_nobody_connects(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.05)
    path = Path(yard.relays.start(yard.agent))
    assert path.stat().st_mode & 0o777 == 0o600
    async with asyncio.timeout(10):
        while path.exists():  # noqa: ASYNC110 (of the file system's state)
            await asyncio.sleep(0.01)


async def test_too_many_clients(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CLIENTS_MAX", 1)
    async with yard.client():
        with pytest.raises(HostError, match="1 clients run commands in guests already"):
            yard.relays.start(yard.agent)
