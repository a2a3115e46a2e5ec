"""vbackend/testing/lab.py: a running lab without VMs; those with are in tests/guests/test_plugin.py."""

import threading
import time
from pathlib import Path

import pytest

from tests.support.frames import BROADCAST, frame, mac
from vbackend.errors import ConfigError
from vbackend.testing import Lab

HELLO = frame(BROADCAST, mac(1), b"hello", size=60)


def test_names_that_are_not_there(lab: Lab) -> None:
    with pytest.raises(ConfigError, match="has no VM 'r1'; there are none"):
        lab.vm("r1")
    with pytest.raises(ConfigError, match="has no link 'nowhere'; there are core, lan/c, lan/d"):
        lab.link("nowhere")
    with pytest.raises(ConfigError, match="has no PORT 'x'; there are c, d, a, b"):
        lab.fake_guest("x")
    with pytest.raises(ConfigError, match="has no end 'x'"):
        lab.wait_for_first_frame("x")


def test_all_of_them(lab: Lab) -> None:
    assert lab.vms == {}
    assert list(lab.links) == ["core", "lan/c", "lan/d"]
    assert lab.link("core") is lab.links["core"]
    assert repr(lab) == f"<Lab {lab.name}>"
    assert repr(lab.link("core")) == f"<Link core of lab {lab.name}>"


def test_the_first_frame(lab: Lab) -> None:
    a = lab.fake_guest("a")
    with pytest.raises(AssertionError, match=r"not within 0.1 s: a frame from a"):
        lab.wait_for_first_frame("a", timeout=0.1)
    threading.Timer(0.2, a.send, [HELLO]).start()
    lab.wait_for_first_frame("a")


def test_show(lab: Lab) -> None:
    shown = lab.show()
    assert f"lab {lab.name}  0 VMs  3 links" in shown
    assert "TRAFFIC" in shown
    assert "core" in shown


def test_links_are_as_new_in_the_next_test(lab: Lab, tmp_path: Path) -> None:
    core, end = lab.link("core"), lab.link("lan/c")
    core.down()
    core.impair(loss=0.5)
    end.down()
    end.impair(delay="5ms", rate="1M", queue=7)
    before = time.monotonic()
    lab.reuse(tmp_path)
    assert time.monotonic() > before
    states = {link.title: link for link in lab.control.status().links}
    assert states["core"].up
    assert [end.impair for end in states["core"].ends] == [{}, {}]
    port = next(port for port in lab.control.snapshot().ports if port.name == "c")
    assert port.up
    assert (port.impairment, port.rate, port.queue_frames) == (None, None, 256)
    assert lab.link("core") is not core


async def test_in_a_coroutine(lab: Lab) -> None:
    assert "TRAFFIC" in lab.show()
    lab.link("core").down()
