"""A bad line between two stream peers: the same seed does the same to the same frames, however they were batched."""

import socket
import struct

from tests.support.frames import frame
from tests.support.run import wait_until
from vbackend.dataplane import Dataplane, ImpairmentConfig

A, B = (bytes([2, 0, 0, 0, 0, number]) for number in (1, 2))
FRAMES = [frame(B, A, bytes([number])) for number in range(200)]
CONFIG = ImpairmentConfig(gilbert=(0.1, 0.5, 0.9, 0.05), duplicate=0.1, corrupt=0.1, delay_us=1000, seed=7)


def stream(plane: Dataplane, segment: int) -> tuple[int, socket.socket]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    port = plane.add_port()
    plane.join(port, segment)
    plane.attach_stream(port, ours)
    return port, theirs


def through(plane: Dataplane, port: int, sender: socket.socket, batch: int) -> dict[str, int]:
    """Send all frames, so many at once, over a line that begins anew; the port's counts once all have left."""
    plane.set_impairment(port, CONFIG)
    before = plane.counters(port)[1].frames_out
    for at in range(0, len(FRAMES), batch):
        sender.sendall(b"".join(struct.pack(">I", len(each)) + each for each in FRAMES[at : at + batch]))

    def counts() -> dict[str, int]:
        found = plane.impairment(port)
        assert found is not None
        return found

    def all_left() -> bool:
        now = counts()
        out = plane.counters(port)[1].frames_out == before + now["delayed"] + now["duplicated"]
        return out and now["lost"] + now["delayed"] == len(FRAMES)

    wait_until(all_left, "all frames to leave or be lost")
    return counts()


def test_the_same_again() -> None:
    with Dataplane() as plane:
        segment = plane.add_cable()
        _, sender = stream(plane, segment)
        port, receiver = stream(plane, segment)
        seen = []
        with sender, receiver:
            assert plane.impairment(port) is None
            for batch in (len(FRAMES), 7):
                counts = through(plane, port, sender, batch)
                arrived = counts["delayed"] + counts["duplicated"]
                wire = receiver.recv((4 + len(FRAMES[0])) * arrived, socket.MSG_WAITALL)
                seen.append((counts["lost"], wire))
            assert seen[0] == seen[1]
            tx = plane.counters(port)[1]
            assert tx.drops["loss"] == 2 * seen[0][0]
            assert tx.frames_in == tx.frames_out + tx.dropped + tx.queued
            plane.set_impairment(port, None)
            assert plane.impairment(port) is None
