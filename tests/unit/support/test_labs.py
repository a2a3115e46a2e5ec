"""The lab generator makes labs that differ, and the world that fails does so when told."""

import asyncio

import pytest
from hypothesis import find, given, settings

from tests.support.labs import FakeWorld, labs
from vbackend.errors import HostError
from vbackend.lab.model import Lab
from vbackend.lab.picture import NOTHING
from vbackend.lab.steps import AddSegment


@given(labs())
def test_labs_are_labs(lab: Lab) -> None:
    assert Lab.model_validate(lab.model_dump()) == lab


def test_there_are_labs_with_all_parts() -> None:
    def whole(lab: Lab) -> bool:
        return bool(
            lab.vm and lab.cable and any(switch.ports for switch in lab.switch.values()) and lab.capture
        )

    assert find(labs(), whole, settings=settings(database=None, max_examples=2000))


def test_world_fails_when_told() -> None:
    world = FakeWorld(NOTHING, {1})
    asyncio.run(world.add_segment(AddSegment("a", "switch")))
    with pytest.raises(HostError, match="call 1"):
        asyncio.run(world.add_segment(AddSegment("b", "switch")))
    assert world.now.segments.keys() == {"a"}
    assert (world.busy, world.most_busy) == (0, 1)
    with pytest.raises(KeyError):
        asyncio.run(FakeWorld(NOTHING, {0}, KeyError()).add_segment(AddSegment("b", "switch")))
