import asyncio
from typing import Literal

import pytest

from vbackend.errors import ConfigError
from vbackend.qemu.agent_command import AgentError, Command
from vbackend.qemu.agent_lines import CHUNK, WINDOW, Data, Drop, End, Fail, Line, Room, Signal


class Told:
    """An agent that notes what commands want of it."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.over: list[int] = []
        self.sendable = asyncio.Event()
        self.sendable.set()

    def tell(self, line: Line) -> None:
        self.lines.append(line)

    async def wait_sendable(self) -> None:
        await self.sendable.wait()

    def forget(self, job: int) -> None:
        self.over.append(job)


async def nothing(_stream: Literal["out", "err"], _data: bytes) -> None:
    """Takes any output."""


async def test_output_comes_in_pieces_and_then_the_end() -> None:
    agent = Told()
    command = Command(agent, 3, WINDOW)
    for line in (
        Data(3, "out", b"a" * CHUNK),
        Data(3, "out", b"b"),
        Data(3, "err", b"c"),
        End(3, 7),
        Data(3, "in", b"?"),
    ):
        command.take(line)
    assert [await command.next() for _ in range(4)] == [
        Data(3, "out", b"a" * CHUNK),
        Data(3, "out", b"b"),
        Data(3, "err", b"c"),
        End(3, 7),
    ]
    assert await command.next() == End(3, 7)
    assert agent.over == [3]


async def test_room_is_given_for_what_was_handed_on() -> None:
    agent = Told()
    command = Command(agent, 1, 100)
    command.take(Data(1, "out", bytes(100)))
    assert agent.lines == []
    command.grant("out", 1000)  # nothing was handed on yet
    assert agent.lines == []
    await command.next()
    command.grant("out", 24)
    assert agent.lines == []
    command.grant("out", 1000)
    assert agent.lines == [Room(1, "out", 100)]
    with pytest.raises(AgentError, match="more output than there was room for"):
        command.take(Data(1, "err", bytes(101)))


async def test_one_that_sends_too_much() -> None:
    command = Command(Told(), 1, 100)
    command.take(Data(1, "out", bytes(99)))
    with pytest.raises(AgentError, match="more output than there was room for"):
        command.take(Data(1, "out", b"12"))


async def test_input_waits_for_room() -> None:
    agent = Told()
    command = Command(agent, 1, WINDOW)
    with pytest.raises(AgentError, match="2 bytes of input, where there is room for 0"):
        await command.send(b"12")
    command.take(Room(1, "in", 3))
    command.take(Room(1, "in", 10**9))
    assert await command.next() == Room(1, "in", WINDOW)  # in one, and no more than a side may promise
    await command.send(bytes(CHUNK + 1))
    await command.send(b"")
    assert agent.lines == [Data(1, "in", bytes(CHUNK)), Data(1, "in", b"\0"), Data(1, "in", b"")]


async def test_input_waits_for_a_guest_that_does_not_listen() -> None:
    agent = Told()
    agent.sendable.clear()
    command = Command(agent, 1, WINDOW)
    command.take(Room(1, "in", 3))
    sending = asyncio.create_task(command.send(b"abc"))
    await asyncio.sleep(0)
    assert agent.lines == []
    agent.sendable.set()
    await sending
    assert agent.lines == [Data(1, "in", b"abc")]


async def test_carried() -> None:
    agent = Told()
    command = Command(agent, 1, WINDOW)
    given, wrote = [b"one", b"two", b""], []

    async def source(most: int) -> bytes:
        assert most > 0
        return given.pop(0)

    async def sink(stream: Literal["out", "err"], data: bytes) -> None:
        wrote.append((stream, data))
        if len(wrote) == 2:
            command.take(End(1, 4))

    carrying = asyncio.create_task(command.carry(source, sink))
    for count in (3, 3):
        command.take(Room(1, "in", count))
        await asyncio.sleep(0.01)
    command.take(Room(1, "in", 3))
    await asyncio.sleep(0.01)
    command.take(Data(1, "err", b"x"))
    command.take(Data(1, "out", b"y"))
    assert await asyncio.wait_for(carrying, 10) == 4
    assert agent.lines == [Data(1, "in", b"one"), Data(1, "in", b"two"), Data(1, "in", b"")]
    assert sorted(wrote) == [("err", b"x"), ("out", b"y")]


async def test_its_end_does_not_wait_for_input() -> None:
    command = Command(Told(), 1, WINDOW)

    async def source(_most: int) -> bytes:
        await asyncio.Event().wait()
        return b""

    command.take(Room(1, "in", 3))
    carrying = asyncio.create_task(command.carry(source, nothing))
    await asyncio.sleep(0.01)
    command.take(End(1, 0))
    assert await asyncio.wait_for(carrying, 10) == 0


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ConfigError("no")])
async def test_input_that_cannot_be_read(error: Exception) -> None:
    async def source(_most: int) -> bytes:
        raise error

    command = Command(Told(), 1, WINDOW)
    command.take(Room(1, "in", 3))
    with pytest.raises(type(error)) as caught:
        await asyncio.wait_for(command.carry(source, nothing), 10)
    assert caught.value is error


async def test_signals_and_its_end() -> None:
    agent = Told()
    command = Command(agent, 1, WINDOW)
    command.signal(2)
    command.drop()
    command.drop()
    command.signal(9)
    command.grant("out", 5)
    await command.send(b"x")
    assert agent.lines == [Signal(1, 2), Drop(1)]
    with pytest.raises(AgentError, match="it was dropped"):
        await command.next()


async def test_what_it_wrote_comes_before_its_failure() -> None:
    command = Command(Told(), 1, WINDOW)
    command.take(Data(1, "out", b"x"))
    command.take(Fail(1, "no memory"))
    assert await command.next() == Data(1, "out", b"x")
    with pytest.raises(AgentError, match="no memory"):
        await command.next()
