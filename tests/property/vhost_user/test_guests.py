"""Two drivers and a port between them: whatever they do in whatever order, frames arrive whole, once and in order."""

from collections.abc import Iterator
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.conformance.vhost_user.lab import BAD, Lab, X, end_turn, expect, vhost_lab
from tests.support.frames import frame
from vbackend.testing.vhost.nic import HEADER_LEN, NO_FEATURES, Nic, Pair
from vbackend.testing.vhost.wire import Feature

SIDES = st.sampled_from(("bad", "x"))
ADDRESSES = {"bad": BAD, "x": X}
LONGEST = 9014
KINDS = st.sampled_from(
    [
        layout | event_idx | indirect | mergeable
        for layout in (NO_FEATURES, Feature.RING_PACKED)
        for event_idx in (NO_FEATURES, Feature.EVENT_IDX)
        for indirect in (NO_FEATURES, Feature.INDIRECT_DESC)
        for mergeable in (NO_FEATURES, Feature.MRG_RXBUF)
    ]
)
LENGTHS = st.lists(st.integers(1, 3000), max_size=3).map(tuple)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with vhost_lab(tmp_path_factory.mktemp("lab")) as made:
        yield made


class Guests(RuleBasedStateMachine):
    """`on_the_way[side]` are the frames that `side` is still to receive, oldest first."""

    lab: ClassVar[Lab]

    def __init__(self) -> None:
        super().__init__()
        self.nics: dict[str, Nic] = {}
        self.on_the_way: dict[str, list[bytes]] = {"bad": [], "x": []}
        self.count = 0

    @initialize(bad=KINDS, x=KINDS, cuts=LENGTHS, chain=LENGTHS)
    def connect(self, bad: Feature, x: Feature, cuts: tuple[int, ...], chain: tuple[int, ...]) -> None:
        self.join("bad", bad, cuts, chain)
        self.join("x", x, (), ())

    def join(self, side: str, features: Feature, cuts: tuple[int, ...], chain: tuple[int, ...]) -> None:
        """With MRG_RXBUF the receive chains are of any lengths, else they have room for every frame."""
        mergeable = Feature.MRG_RXBUF in features
        self.nics[side] = self.lab.nic(
            side,
            features=features,
            indirect=Feature.INDIRECT_DESC in features,
            tx_cuts=cuts,
            rx_chain=(*chain, 300) if mergeable else (*chain, HEADER_LEN + LONGEST),
        )

    def pair(self, side: str) -> Pair:
        return self.nics[side].pairs[0]

    @rule(side=SIDES, sizes=st.lists(st.integers(14, LONGEST), min_size=1, max_size=10))
    def send(self, side: str, sizes: list[int]) -> None:
        other = "x" if side == "bad" else "bad"
        if len(self.on_the_way[other]) > 40:
            return
        for size in sizes:
            self.count += 1
            sent = frame(ADDRESSES[other], ADDRESSES[side], bytes([self.count % 256]) * (size - 14))
            self.pair(side).send(sent)
            self.on_the_way[other].append(sent)
        self.pair(side).flush()

    @rule(side=SIDES, most=st.integers(1, 50))
    def receive(self, side: str, most: int) -> None:
        for sent in self.on_the_way[side][:most]:
            assert expect(self.pair(side), ADDRESSES[side]) == sent
        del self.on_the_way[side][:most]

    @rule(side=SIDES)
    def restart_transmitter(self, side: str) -> None:
        queue, front = self.pair(side).tx, self.nics[side].front
        assert front.stop(queue) == queue.ring.base
        front.start(queue)

    @rule(side=SIDES)
    def restart_receiver(self, side: str) -> None:
        """Frames that wait in the port while there is no ring are lost, as they should be; so none may wait."""
        self.receive(side, 1000)
        queue, front = self.pair(side).rx, self.nics[side].front
        assert front.stop(queue) == queue.ring.base
        front.start(queue)

    @rule(side=SIDES)
    def swap_memory(self, side: str) -> None:
        self.nics[side].front.set_memory()

    @rule(side=SIDES, on=st.booleans())
    def ask_for_calls(self, side: str, on: bool) -> None:
        for queue in self.nics[side].front.queues:
            queue.ring.want_calls(0 if on else None)

    @rule(side=SIDES, polled=st.booleans())
    def change_kicks(self, side: str, polled: bool) -> None:
        for queue in self.nics[side].front.queues:
            self.nics[side].front.set_kick(queue, -1 if polled else None)

    @precondition(lambda self: not any(self.on_the_way.values()))
    @rule(side=SIDES, features=KINDS, cuts=LENGTHS, chain=LENGTHS)
    def leave_and_come_back(
        self, side: str, features: Feature, cuts: tuple[int, ...], chain: tuple[int, ...]
    ) -> None:
        self.nics.pop(side).close()
        self.lab.wait_for(lambda: self.lab.port(side).session is None, f"{side} has left")
        self.join(side, features, cuts, chain)

    def teardown(self) -> None:
        try:
            for side, nic in self.nics.items():
                self.receive(side, 1000)
                end_turn(nic.front)
                assert nic.pairs[0].take() is None, "a frame more than was sent"
        finally:
            for nic in self.nics.values():
                nic.close()
        self.lab.settle()


def test_guests(lab: Lab) -> None:
    class GuestsHere(Guests):
        pass

    GuestsHere.lab = lab
    profile = settings.default
    assert profile is not None
    few = settings(profile, max_examples=min(profile.max_examples, 50), stateful_step_count=25)
    run_state_machine_as_test(GuestsHere, settings=few)
