"""A driver of the test's own."""

from collections.abc import Iterator

import pytest

from vbackend.tun.driver import TunDriver


@pytest.fixture
def driver() -> Iterator[TunDriver]:
    with TunDriver() as driver:
        yield driver
