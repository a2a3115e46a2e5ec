"""The lab as a fixture."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.conformance.vde.lab import Lab, vde_lab


@pytest_asyncio.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with vde_lab(tmp_path) as found:
        yield found
