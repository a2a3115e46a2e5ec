"""A captured cable tells of each frame once, with its way and its fate, whatever happens to its ends."""

import time

from hypothesis import given
from hypothesis import strategies as st

from tests.support.frames import BROADCAST, frame, mac
from tests.support.pcapng import parse
from vbackend.capture.links import links_of
from vbackend.capture.pcapng import Interface, section
from vbackend.capture.pcapng import description as described
from vbackend.dataplane import Dataplane, NativeCapture
from vbackend.snapshot import SegmentSnapshot

QUEUE = 3  # frames that wait for a program that does not read
DEADLINE_S = 10.0

ends = st.sampled_from(["a", "b"])
actions = st.lists(st.tuples(st.sampled_from(["send", "send", "send", "flip", "drain"]), ends), max_size=25)


class Twin:
    """The cable as its rules say, frame by frame."""

    def __init__(self) -> None:
        self.up = {"a": True, "b": True}
        self.waiting = {"a": 0, "b": 0}
        self.told: list[tuple[str, int, str | None]] = []

    def send(self, sender: str, size: int) -> None:
        receiver = "b" if sender == "a" else "a"
        fate = None
        if not (self.up[sender] and self.up[receiver]):
            fate = "dropped: port-down"
        elif self.waiting[receiver] == QUEUE:
            fate = "dropped: queue-full"
        else:
            self.waiting[receiver] += 1
        self.told.append((f"{sender} → {receiver}", size, fate))


@given(actions)
def test_each_frame_once(actions: list[tuple[str, str]]) -> None:
    with Dataplane() as dataplane:
        segment = dataplane.add_cable()
        ports = {name: dataplane.add_port(queue_frames=QUEUE) for name in "ab"}
        for port in ports.values():
            dataplane.join(port, segment)
        channels = {name: dataplane.attach_channel(port) for name, port in ports.items()}
        sink, data = NativeCapture(0), section("test")
        (link,) = links_of([SegmentSnapshot(name="core", kind="cable", ports=("a", "b"))], ())
        for one in link.interfaces:
            number = sink.add_interface(described(Interface(one.name, one.description), 1000, None))
            assert number is not None
            for name, lane in one.taps:
                dataplane.capture(ports[name], sink, number, snaplen=1000, lane=lane)
        twin = Twin()
        for serial, (action, end) in enumerate(actions):
            match action:
                case "send":
                    before = dataplane.counters(ports[end])[0].frames_in
                    assert channels[end].send(frame(BROADCAST, mac(1), size=60 + serial))
                    deadline = time.monotonic() + DEADLINE_S
                    while dataplane.counters(ports[end])[0].frames_in == before:
                        assert time.monotonic() < deadline, "the frame is not taken"
                    twin.send(end, 60 + serial)
                case "flip":
                    twin.up[end] = not twin.up[end]
                    dataplane.set_port(ports[end], up=twin.up[end])
                case "drain":
                    assert len(channels[end].recv_batch()) == twin.waiting[end]
                    twin.waiting[end] = 0
        found = parse(data + sink.read(1 << 20))
        assert [(packet.interface, packet.length, packet.comment) for packet in found.packets] == twin.told
        for port in ports.values():
            dataplane.detach(port)
