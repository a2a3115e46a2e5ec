"""The helpers of vhost-user tests: bytes as the specification draws them, and a recorder that keeps no descriptor."""

import os
import socket
import struct

import pytest

from tests.support.vhost_user import (
    FakeDataplane,
    FakeRings,
    addresses,
    log,
    raw,
    region,
    send,
    state,
    table,
    u64,
)
from vbackend.dataplane import RingStopped
from vbackend.fds import OwnedFd
from vbackend.vhost_user.events import Region

ONE = Region(1, 2, 3, 4)


def test_bytes() -> None:
    assert raw(5, b"ab", flags=8) == struct.pack("=III", 5, 9, 2) + b"ab"
    assert raw(5, size=77) == struct.pack("=III", 5, 1, 77)
    assert u64(1) == b"\1" + bytes(7)
    assert state(1, 2) == struct.pack("=II", 1, 2)
    assert addresses(1, 2, 3, 4, flags=5, log=6) == struct.pack("=IIQQQQ", 1, 5, 2, 3, 4, 6)
    assert region(ONE) == struct.pack("=QQQQQ", 0, 1, 2, 3, 4)
    assert table(ONE, spare=1) == struct.pack("=IIQQQQ", 1, 0, 1, 2, 3, 4) + bytes(32)
    assert table(count=3) == struct.pack("=II", 3, 0)
    assert log(1, 2) == struct.pack("=QQ", 1, 2)


def test_send() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send(ours, b"ab", [ours.fileno()])
        data, fds, _, _ = socket.recv_fds(theirs, 9, 9)
        assert (data, len(fds)) == (b"ab", 1)
        os.close(fds[0])


def test_the_recorder() -> None:
    rings = FakeRings(moves=2)
    fd = OwnedFd(os.open(os.devnull, os.O_RDONLY))
    assert rings.attach_vhost(1) == 1
    rings.vhost_set_memory(1, [(1, 2, 3, 4, fd)])
    assert fd.closed
    rings.vhost_start_ring(1, 0, size=4, base=5, descriptors=6, driver=7, device=8)
    assert [row["ring"] for row in rings.vhost_rings(1)] == [0]
    assert rings.vhost_stop_ring(1, 0) == 7
    assert rings.vhost_stop_ring(1, 0) is None
    rings.vhost_set_call(1, 3, None)
    assert rings.of("set_memory") == [((ONE,), "fd")]
    assert rings.of("start_ring") == [(0, 4, 5, 6, 7, 8)]
    assert rings.of("set_call") == [(3, None)]
    assert rings.ports == {1}
    rings.fail["features"] = ValueError("no")
    with pytest.raises(ValueError, match="no"):
        rings.vhost_features(1, 0)


def test_an_engine_with_recorded_rings() -> None:
    with FakeDataplane(1) as dataplane:
        port = dataplane.add_port()
        assert dataplane.attach_vhost(port) == 1
        dataplane.reports = [RingStopped(port, 1, 0, "loop")]
        assert dataplane.drain_events() == [RingStopped(port, 1, 0, "loop")]
        assert dataplane.drain_events() == []
        dataplane.detach(port)
        assert dataplane.of("detach") == [()]
