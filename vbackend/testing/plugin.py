"""The pytest plugin (entry point `vbackend`): fixtures that give tests what vbackend has.

pytest loads this at every start, so it imports only pytest; the rest comes with the first fixture that is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from vbackend.testing.fake_guest import FakeGuest

__all__ = ["fake_guest"]


@pytest.fixture
def fake_guest() -> Iterator[Callable[..., FakeGuest]]:
    """Makes guests in Python: `fake_guest(PORT)`, as `vbackend.testing.FakeGuest`. They hang up at the end."""
    from vbackend.testing.fake_guest import FakeGuest

    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(FakeGuest(*args, **options))
