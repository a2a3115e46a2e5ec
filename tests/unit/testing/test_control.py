"""vbackend/testing/control.py: what needs an event loop works with and without one."""

import asyncio

import pytest

from vbackend.errors import ConfigError, ControlError
from vbackend.testing import Lab
from vbackend.testing.control import LabControl, blocking


async def twice(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


def run_twice(number: int) -> int:
    return asyncio.run(twice(number))


def test_without_a_loop() -> None:
    assert blocking(run_twice, 3) == 6


async def test_with_a_loop() -> None:
    assert blocking(run_twice, number=3) == 6
    with pytest.raises(TypeError):
        blocking(run_twice, 3, 3)  # type: ignore[call-arg]


def test_answers_and_refusals(lab: Lab) -> None:
    assert lab.control.execute("port-set", {"name": "a", "up": True})
    with pytest.raises(ConfigError, match="there is no port 'x'"):
        lab.control.execute("port-set", {"name": "x", "up": True})
    assert lab.control.status().name == lab.control.snapshot().name == lab.name


def test_nobody_there(lab: Lab) -> None:
    with pytest.raises(
        ControlError, match="lab 'nobody' does not run; `vbackend up` with its file starts it"
    ):
        LabControl("nobody", lab.control.environ).snapshot()
