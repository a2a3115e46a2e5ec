"""Guests for the tests of this folder: the image, built once, and a place to boot guests from."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.guest import Guests
from vbackend.images import BuiltImage, build_image


@pytest.fixture(scope="session")
def image() -> BuiltImage:
    return build_image("small")


@pytest_asyncio.fixture
async def guests(image: BuiltImage, artifacts: Path) -> AsyncIterator[Guests]:
    booted = Guests(image, artifacts)
    try:
        yield booted
    finally:
        await booted.close()
