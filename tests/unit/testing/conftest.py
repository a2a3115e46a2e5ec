"""A lab without VMs, whose ends are guests in Python: a daemon of its own, and all the rest of a lab."""

from collections.abc import Callable
from typing import Final

import pytest

from vbackend.testing import Lab

LAB: Final = """
[[cable]]
name = "core"
ends = ["stream:unix:a.sock,name=a", "stream:unix:b.sock,name=b"]

[switch.lan]
ports = ["stream:unix:c.sock,name=c", "vhost-user:d.sock,name=d"]
"""


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab(LAB, reuse=True)
