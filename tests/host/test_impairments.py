"""Impairments between kernels: round trips, TCP through a delay, and a bad line changed while it is used.

TCP is limited by its window, not by the machine: the receiver's buffer is small and fixed, so a window travels in
each round trip, and the delay decides how fast that is.
"""

import json
import re
import select
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from tests.support.netns import Namespace, namespace
from tests.support.run import Run, vbackend_run
from tests.support.stacks import ping, socket_in
from vbackend.control.client import call

pytestmark = pytest.mark.root

A, B = "10.0.0.1", "10.0.0.2"
WINDOW: Final = 64 * 1024  # bytes of payload, of which the kernel advertises what it reports
TCP_INFO_RTT: Final = 68  # offset of tcpi_rtt, microseconds (linux/tcp.h)


@pytest.fixture
def ends() -> Iterator[tuple[Namespace, Namespace]]:
    with namespace() as a, namespace() as b:
        yield a, b


def taps(ends: tuple[Namespace, Namespace], more: str) -> tuple[str, str]:
    """A tap in each, with `more` on both."""
    return tuple(  # type: ignore[return-value]
        f"tap:t{name},netns={end.name},addr={address}/24{more}"
        for name, end, address in zip("ab", ends, (A, B), strict=True)
    )
