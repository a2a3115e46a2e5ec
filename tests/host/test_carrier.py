"""`vbackend set TAP down` and `up`, as the host and its bridges see it.

ns a: tap0 ── vbackend ── tap1 on br0, ns b
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.netns import Namespace, namespace
from tests.support.run import vbackend_run, wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]


@pytest.fixture
def a() -> Iterator[Namespace]:
    with namespace() as made:
        yield made


@pytest.fixture
def b() -> Iterator[Namespace]:
    with namespace() as made:
        yield made


def flags(place: Namespace, ifname: str) -> set[str]:
    return set(place.links()[ifname]["flags"])


def test_down_and_up(a: Namespace, b: Namespace, tmp_path: Path) -> None:
    ports = [
        f"tap:tap0,netns={a.name},addr=10.0.0.1/24",
        f"tap:tap1,netns={b.name},bridge=br0,addr=10.0.0.2/24",
    ]
    ping = ("ping", "-n", "-q", "-c", "1", "-W", "1", "10.0.0.2")
    with vbackend_run(tmp_path, "--cable", *ports) as run:
        wait_until(lambda: "1 received" in a.run(*ping, check=False), "an answer")
        run.set("tap1", "down")
        assert "LOWER_UP" not in flags(b, "tap1")
        assert "LOWER_UP" in flags(a, "tap0"), "that one is up"
        wait_until(lambda: "NO-CARRIER" in flags(b, "tap1"), "what humans see, a moment later")
        wait_until(lambda: "NO-CARRIER" in flags(b, "br0"), "a bridge whose only port has none has none")
        assert "0 received" in a.run(*ping, check=False)
        run.set("tap1", "up")
        assert "LOWER_UP" in flags(b, "tap1")
        wait_until(lambda: "1 received" in a.run(*ping, check=False), "an answer again")
