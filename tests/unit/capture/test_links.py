"""Links and their directions: what is recorded at which port."""

from tests.unit.control.fakes import port
from vbackend.capture.links import CaptureInterface, Link, links_of, links_of_snapshot
from vbackend.dataplane import CaptureLane
from vbackend.snapshot import BackendSnapshot, PortSnapshot, SegmentSnapshot


def interface(name: str, title: str, *taps: tuple[str, CaptureLane]) -> CaptureInterface:
    return CaptureInterface(name, f"link {title}", taps)


CABLE = SegmentSnapshot(name="core", kind="cable", ports=("r1:eth1", "r2:eth1"))
SWITCH = SegmentSnapshot(name="lan", kind="switch", ports=("r1:eth0", "u"))


def test_a_cable_has_each_frame_once() -> None:
    there = interface("r1:eth1 → r2:eth1", "core", ("r1:eth1", "rx-lost"), ("r2:eth1", "tx"))
    back = interface("r2:eth1 → r1:eth1", "core", ("r2:eth1", "rx-lost"), ("r1:eth1", "tx"))
    assert list(links_of([CABLE], ())) == [Link("core", (there, back))]


def test_a_unit_on_a_cable_leaves_it_to_the_other_end() -> None:
    for units in ({"r1:eth1"}, {"r2:eth1"}):
        (link,) = links_of([CABLE], units)
        (frames,) = {"r1:eth1", "r2:eth1"} - units
        lanes = {one.name: one.taps for one in link.interfaces}
        assert lanes[next(name for name in lanes if name.startswith(frames))] == ((frames, "rx"),)
        assert lanes[next(name for name in lanes if name.endswith(frames))] == ((frames, "tx"),)


def test_a_switch_has_a_link_for_each_port() -> None:
    first, second = links_of([SWITCH], {"u"})
    assert (first.title, second.title) == ("lan/r1:eth0", "lan/u")
    assert first.interfaces == (
        interface("r1:eth0 → lan", "lan/r1:eth0", ("r1:eth0", "rx")),
        interface("lan → r1:eth0", "lan/r1:eth0", ("r1:eth0", "tx")),
    )


def test_a_switch_has_none_where_a_cable_ends() -> None:
    joined = SWITCH.model_copy(update={"ports": ("r1:eth0", "lan:up@core")})
    assert [link.title for link in links_of([joined], ())] == ["lan/r1:eth0"]


def test_a_cable_that_lacks_an_end_is_none() -> None:
    half = CABLE.model_copy(update={"ports": ("r1:eth1",)})
    assert [link.title for link in links_of([half, SWITCH, CABLE], ())] == ["lan/r1:eth0", "lan/u", "core"]


def test_of_a_snapshot() -> None:
    def named(name: str, kind: str) -> PortSnapshot:
        return port(name).model_copy(update={"kind": kind})

    snapshot = BackendSnapshot(
        name="x",
        version="1",
        pid=1,
        started=0.0,
        workers=1,
        segments=(CABLE,),
        ports=(named("r1:eth1", "tun"), named("r2:eth1", "stream")),
    )
    (link,) = links_of_snapshot(snapshot)
    assert [one.taps for one in link.interfaces] == [(("r2:eth1", "tx"),), (("r2:eth1", "rx"),)]
