"""vbackend/testing/link.py: cut, impaired, counted and captured links of a running lab."""

import pytest

from tests.support.frames import BROADCAST, frame, mac
from vbackend.errors import ConfigError
from vbackend.testing import Lab
from vbackend.testing.link import LinkStats, WayStats

A, B = mac(1), mac(2)
HELLO = frame(BROADCAST, A, b"hello", size=60)


def test_a_cable_that_is_cut(lab: Lab) -> None:
    a, b, core = lab.fake_guest("a"), lab.fake_guest("b"), lab.link("core")
    core.down()
    a.send(HELLO)
    b.expect_none("less 1000", within=0.2)
    core.up()
    a.send(HELLO)
    assert b.recv() == HELLO


def test_an_end_on_a_switch_that_is_cut(lab: Lab) -> None:
    c, d, link = lab.fake_guest("c"), lab.fake_guest("d"), lab.link("lan/c")
    link.down()
    d.send(HELLO)
    c.expect_none("less 1000", within=0.2)
    link.up()
    d.send(HELLO)
    assert c.recv() == HELLO


def test_stats_are_of_this_test(lab: Lab) -> None:
    a, b, core = lab.fake_guest("a"), lab.fake_guest("b"), lab.link("core")
    assert core.stats == LinkStats(WayStats(), WayStats())
    for _ in range(3):
        a.send(HELLO)
        b.recv()
    core.impair(direction="back", loss=1.0, seed=7)
    b.send(HELLO)
    a.expect_none("less 1000", within=0.2)
    assert core.stats == LinkStats(WayStats(frames=3, bytes=180), WayStats(dropped=1, lost=1))
    assert (core.stats.frames, core.stats.bytes, core.stats.dropped, core.stats.lost) == (3, 180, 1, 1)


def test_words_that_are_not_given_stay(lab: Lab) -> None:
    core = lab.link("core")

    def impaired() -> dict[str, dict[str, str]]:
        (link,) = (each for each in lab.control.status().links if each.title == "core")
        return {end.name: end.impair for end in link.ends}

    core.impair(loss=0.5, seed=7)
    core.impair("forward", delay="5ms", loss=None)
    assert impaired() == {"a": {"loss": "0.5", "seed": "7"}, "b": {"delay": "5ms", "seed": "7"}}
    with pytest.raises(ConfigError, match="nonsense"):
        core.impair(nonsense=1)


def test_a_switch_has_one_way_that_can_be_impaired(lab: Lab) -> None:
    c, d, link = lab.fake_guest("c"), lab.fake_guest("d"), lab.link("lan/c")
    with pytest.raises(ConfigError, match="what goes to a switch cannot be impaired"):
        link.impair("forward", loss=1.0)
    with pytest.raises(ConfigError, match="impair: rate"):
        link.impair(rate="fast")
    link.impair(loss=1.0, seed=7)
    d.send(HELLO)
    c.expect_none("less 1000", within=0.2)
    assert link.stats.lost == 1
    link.impair(loss=None, rate="10M", queue=100)
    d.send(HELLO)
    assert c.recv() == HELLO
    port = next(port for port in lab.control.snapshot().ports if port.name == "c")
    assert (port.rate, port.queue_frames) == (10_000_000, 100)
    assert link.stats == LinkStats(WayStats(), WayStats(frames=1, bytes=60, dropped=1, lost=1))


def test_lost_frames_are_in_captures(lab: Lab) -> None:
    a, b, core = lab.fake_guest("a"), lab.fake_guest("b"), lab.link("core")
    core.impair(loss=1.0, seed=7)
    with core.capture() as recording:
        a.send(HELLO)
        packet = recording.expect("ether proto 0x88b5")
    assert packet.verdict == "lost: impairment loss, seed 7"
    b.expect_none("less 1000", within=0.05)


def test_a_frame_that_does_not_come(lab: Lab) -> None:
    with pytest.raises(AssertionError, match=r"no 'arp' within 0.2 s; there is nothing"):
        lab.link("core").expect("arp", timeout=0.2)


@pytest.mark.parametrize(
    ("title", "toward", "receiver"), [("core", "a", "a"), ("core", "b", "b"), ("lan/c", "lan", "d")]
)
def test_a_frame_of_nobody(lab: Lab, title: str, toward: str, receiver: str) -> None:
    guests = {name: lab.fake_guest(name) for name in "abcd"}
    lab.link(title).inject(HELLO, toward=toward)
    assert guests[receiver].recv() == HELLO


def test_a_frame_to_nowhere(lab: Lab) -> None:
    with pytest.raises(ConfigError, match="link 'core': no way to 'c'; there is a and b"):
        lab.link("core").inject(HELLO, toward="c")
    with pytest.raises(ConfigError, match="link 'lan/c': no way to 'c'; there is lan"):
        lab.link("lan/c").inject(HELLO, toward="c")
