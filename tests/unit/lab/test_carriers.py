"""Carriers of a whole lab: who is told what, in which order, and by a teller that is slow or fails."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from tests.support.qemu_peers import eventually
from vbackend.errors import PeerError
from vbackend.lab import carriers
from vbackend.lab.carriers import Carriers
from vbackend.lab.steps import CableState

A, B, C = "r1:eth0", "r2:eth0", "h1:eth0"


class Told:
    """Listens to one lab's words."""

    def __init__(self) -> None:
        self.words: list[tuple[str, bool]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.carriers = Carriers(self.tell)

    async def tell(self, end: str, up: bool) -> None:
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.words.append((end, up))

    async def heard(self) -> list[tuple[str, bool]]:
        for _ in range(5):
            await asyncio.sleep(0)
        words, self.words = self.words, []
        return words


@pytest.fixture
async def lab(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Told]:
    monkeypatch.setattr(carriers, "read_duration", lambda _, text: int(text))  # µs
    told = Told()
    yield told
    await told.carriers.close()


def joined(lab: Told, *, carrier: str = "0") -> Carriers:
    lab.carriers.add_segment("core", "cable", CableState(carrier=carrier))
    for end in (A, B):
        lab.carriers.join("core", end)
        lab.carriers.connected(end, True)
    return lab.carriers


async def test_a_cable(lab: Told) -> None:
    cables = joined(lab)
    assert sorted(await lab.heard()) == [(A, True), (B, True)]
    cables.connected(A, False)
    assert await lab.heard() == [(B, False)]
    cables.connected(A, True)
    assert sorted(await lab.heard()) == [(A, True), (B, True)]
    cables.set_cable("core", CableState(up=False))
    assert sorted(await lab.heard()) == [(A, False), (B, False)]
    cables.again(A)
    assert await lab.heard() == [(A, False)]
    cables.leave(A)
    assert await lab.heard() == [(A, False)]


async def test_connected_before_it_is_joined(lab: Told) -> None:
    lab.carriers.add_segment("core", "cable", CableState())
    for end in (A, B):
        lab.carriers.connected(end, True)
        lab.carriers.join("core", end)
    assert sorted(await lab.heard()) == [(A, True), (B, True)]


async def test_a_switch_and_nothing(lab: Told) -> None:
    lab.carriers.add_segment("lan", "switch", CableState())
    lab.carriers.join("lan", C)
    assert await lab.heard() == [(C, True)]
    lab.carriers.connected(C, True)
    assert await lab.heard() == [(C, True)]
    lab.carriers.leave(C)
    assert await lab.heard() == [(C, False)]
    lab.carriers.again(C)
    lab.carriers.remove_segment("lan")
    assert await lab.heard() == [(C, False)]


async def test_hold_down(lab: Told) -> None:
    cables = joined(lab, carrier="50000")
    await lab.heard()
    cables.connected(A, False)
    cables.connected(A, True)
    assert (B, True) not in await lab.heard()
    await eventually(lambda: (B, True) in lab.words, "the carrier is back")


async def test_the_newest_word_is_brought(lab: Told) -> None:
    cables = joined(lab)
    await lab.heard()
    lab.gate.clear()
    for present in (False, True, False):
        cables.connected(A, present)
        await asyncio.sleep(0)
    lab.gate.set()
    words = [up for end, up in await lab.heard() if end == B]
    assert words[-1] is False
    assert len(words) <= 2


async def test_one_that_cannot_be_told(lab: Told, caplog: pytest.LogCaptureFixture) -> None:
    lab.failure = PeerError("its monitor is gone")
    cables = joined(lab)
    with caplog.at_level(logging.WARNING):
        assert await lab.heard() == []
    assert "r1:eth0: cannot be told that it has a carrier: its monitor is gone" in caplog.text
    lab.failure = None
    cables.again(A)
    assert await lab.heard() == [(A, True)]


async def test_settled_when_all_are_told(lab: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    cables = joined(lab)
    await cables.settle()
    assert sorted(lab.words) == [(A, True), (B, True)]
    monkeypatch.setattr(carriers, "_PATIENCE_S", 0.01)
    lab.gate.clear()
    cables.set_cable("core", CableState(up=False))
    await cables.settle()
    assert sorted(lab.words) == [(A, True), (B, True)]
