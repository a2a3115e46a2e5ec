"""The seam between Python and the engine: fds move once, errors have their classes, counters add up."""

import dataclasses
import os
import select
import socket
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import Any, cast

import pytest

from vbackend.dataplane import (
    AdapterConfig,
    Dataplane,
    ImpairmentConfig,
    NativeCapture,
    NativeUnit,
    RingStopped,
    SessionEnded,
    build_info,
    drop_reasons,
)
from vbackend.fds import OwnedFd
from vbackend.snapshot import LaneCounters
from vbackend.tun.vocabulary import READY, TunFlag


def frame(to: int, source: int, size: int = 60) -> bytes:
    return bytes([2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, source]) + b"\x88\xb5" + bytes(size - 14)


def wire(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "gave up waiting"
        select.select([], [], [], 0.002)


@pytest.fixture
def plane() -> Iterator[Dataplane]:
    with Dataplane() as plane:
        yield plane


def stream(plane: Dataplane, segment: int) -> tuple[int, socket.socket]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    port = plane.add_port()
    plane.join(port, segment)
    assert plane.attach_stream(port, ours) == 1
    assert ours.fileno() == -1, "the descriptor moved"
    return port, theirs


def balanced(lane: LaneCounters) -> bool:
    return lane.frames_in == lane.frames_out + lane.dropped + lane.queued


def test_frames_cross_and_are_counted(plane: Dataplane) -> None:
    segment = plane.add_switch()
    a, peer_a = stream(plane, segment)
    b, peer_b = stream(plane, segment)
    with peer_a, peer_b:
        peer_a.sendall(wire(frame(2, 1)) + wire(b"short"))
        assert peer_b.recv(64, socket.MSG_WAITALL) == wire(frame(2, 1))
        eventually(lambda: plane.counters(a)[0].frames_in == 2)
        rx, tx = plane.counters(a)[0], plane.counters(b)[1]
        assert rx == LaneCounters(frames_in=2, frames_out=1, bytes_out=60, drops={"runt": 1})
        assert tx == LaneCounters(frames_in=1, frames_out=1, bytes_out=60)
        assert balanced(rx)
        [(mac, port, age_ms)] = plane.fdb(segment)
        assert (mac, port) == (bytes([2, 0, 0, 0, 0, 1]), a)
        assert age_ms >= 0


def test_a_session_that_ends_is_an_event(plane: Dataplane) -> None:
    port, peer = stream(plane, plane.add_switch())
    assert plane.drain_events() == []
    assert select.select([plane.event_fd], [], [], 0)[0] == []
    peer.sendall(b"\0\0")
    peer.close()
    assert select.select([plane.event_fd], [], [], 10)[0] == [plane.event_fd]
    assert plane.drain_events() == [SessionEnded(port, 1, "eof", 2)]
    assert select.select([plane.event_fd], [], [], 0)[0] == []


def test_a_channel_is_readable_exactly_while_it_holds_a_frame(plane: Dataplane) -> None:
    segment = plane.add_cable()
    _, peer = stream(plane, segment)
    port = plane.add_port()
    plane.join(port, segment)
    channel = plane.attach_channel(port)
    with peer:
        assert channel.send(frame(1, 2))
        assert peer.recv(64, socket.MSG_WAITALL) == wire(frame(1, 2))
        assert channel.recv() is None
        peer.sendall(wire(frame(2, 1)) * 3)
        eventually(lambda: plane.counters(port)[1].frames_out == 3)
        for left in (3, 2, 1):
            assert select.select([channel.fileno()], [], [], 10)[0], f"{left} frames are left"
            assert channel.recv() == frame(2, 1)
        assert select.select([channel.fileno()], [], [], 0)[0] == []
        assert channel.send_batch([frame(1, 2)] * 2) == 2
        peer.sendall(wire(frame(2, 1)) * 2)
        eventually(lambda: plane.counters(port)[1].frames_out == 5)
        assert channel.recv_batch() == [frame(2, 1)] * 2
    plane.remove_port(port)
    with pytest.raises(OSError, match="No such device") as error:
        channel.recv()
    assert error.value.errno == 6


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda plane: plane.counters(12345), KeyError),
        (lambda plane: plane.fdb(12345), KeyError),
        (lambda plane: plane.add_port(mac=b"short"), ValueError),
        (lambda plane: plane.add_port(worker=9), ValueError),
        (lambda plane: plane.join(plane.add_port(), 12345), KeyError),
        (lambda plane: plane.counters(-1), KeyError),
        (lambda plane: plane.detach(1 << 70), KeyError),
        (lambda plane: plane.remove_segment(-1), KeyError),
        (lambda plane: plane.add_port(queue_frames=-1), ValueError),
        (lambda plane: plane.set_port(plane.add_port(), queue_bytes=1 << 70), ValueError),
        (lambda plane: plane.set_port(plane.add_port(), rate=1000), ValueError),
        (lambda plane: plane.set_port(plane.add_port(), rate=0, burst=5), ValueError),
        (lambda plane: plane.set_port(plane.add_port(), burst=5), ValueError),
        (lambda plane: plane.set_port(7, rate=1000, burst=5), KeyError),
        (lambda plane: plane.set_impairment(7, ImpairmentConfig()), KeyError),
        (lambda plane: plane.set_impairment(7, None), KeyError),
        (lambda plane: plane.impairment(7), KeyError),
        (lambda plane: plane.set_impairment(plane.add_port(), ImpairmentConfig(loss=1.5)), ValueError),
        (lambda plane: plane.set_impairment(plane.add_port(), ImpairmentConfig(jitter_us=1)), ValueError),
        (lambda plane: plane.set_impairment(plane.add_port(), ImpairmentConfig(seed=-1)), ValueError),
        (lambda plane: plane.add_switch(max_entries=-1), ValueError),
        (lambda plane: plane.add_switch(max_entries=1 << 60), ValueError),
        (lambda plane: plane.add_switch(ageing_ms=1 << 70), ValueError),
        (lambda _: Dataplane(-1), ValueError),
        (lambda _: Dataplane(1 << 40), ValueError),
    ],
)
def test_wrong_calls_have_their_classes(
    plane: Dataplane, call: Callable[[Dataplane], object], expected: type[Exception]
) -> None:
    with pytest.raises(expected):
        call(plane)


def test_a_descriptor_is_taken_also_when_the_call_fails(plane: Dataplane) -> None:
    ours, theirs = socket.socketpair()
    fd = ours.fileno()
    with pytest.raises(KeyError):
        plane.attach_stream(12345, OwnedFd.from_socket(ours))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert theirs.recv(1) == b""
    theirs.close()


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda plane, _port, fd, _send: plane.attach_stream(-1, fd), KeyError),
        (lambda plane, _port, fd, _send: plane.attach_tap(1 << 70, fd, vnet_hdr=False), KeyError),
        (lambda plane, port, fd, _send: plane.attach_reader(port, fd, device=True), ValueError),
        (lambda plane, _port, fd, _send: plane.attach_reader(-1, fd, device=False), KeyError),
        (lambda plane, port, fd, _send: plane.report_errors(port, fd), ValueError),
        (lambda plane, _port, fd, send: plane.attach_dgram(-1, fd, send_sock=send), KeyError),
        (lambda plane, port, fd, send: plane.attach_dgram(port, fd, send_to="x", send_sock=send), ValueError),
        (
            lambda plane, port, fd, send: plane.attach_dgram(
                port, fd, accept_from="unix:/\udcff", send_sock=send
            ),
            ValueError,
        ),
    ],
)
def test_descriptors_are_taken_whatever_is_wrong(
    plane: Dataplane,
    call: Callable[[Dataplane, int, OwnedFd, OwnedFd], object],
    expected: type[Exception],
) -> None:
    pairs = [socket.socketpair(type=socket.SOCK_DGRAM) for _ in range(2)]
    fd, send = (OwnedFd.from_socket(ours) for ours, _ in pairs)
    with pairs[0][1], pairs[1][1]:
        with pytest.raises(expected):
            call(plane, plane.add_port(), fd, send)
        send_was_given = send.closed
        send.close()
        assert fd.closed
        for _, theirs in pairs[: 1 + send_was_given]:
            with pytest.raises(OSError, match="refused"):
                theirs.send(b"is anybody there?")


def test_of_two_descriptors_none_moves_when_one_is_gone(plane: Dataplane) -> None:
    ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
    gone = OwnedFd.from_socket(ours)
    gone.close()
    with OwnedFd.from_socket(theirs) as other:
        port = plane.add_port()
        with pytest.raises(ValueError, match="closed or was handed on"):
            plane.attach_dgram(port, gone, send_sock=other)
        with pytest.raises(ValueError, match="closed or was handed on"):
            plane.attach_dgram(port, other, send_sock=gone)
        assert not other.closed


def test_a_closed_socket_beside_a_good_one_takes_it_along(plane: Dataplane) -> None:
    closed = socket.socket(type=socket.SOCK_DGRAM)
    closed.close()
    ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
    with theirs:
        with pytest.raises(ValueError, match="not a file descriptor"):
            plane.attach_dgram(plane.add_port(), closed, send_sock=ours)
        with pytest.raises(OSError, match="refused"):
            theirs.send(b"is anybody there?")


def test_one_descriptor_given_twice_is_closed_once(plane: Dataplane) -> None:
    ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
    fd = ours.detach()
    with theirs:
        with pytest.raises(ValueError, match="the same"):
            plane.attach_dgram(plane.add_port(), OwnedFd(fd), send_sock=OwnedFd(fd))
        with pytest.raises(OSError, match="refused"):
            theirs.send(b"is anybody there?")


def test_a_datagram_address_that_does_not_parse_says_so(plane: Dataplane) -> None:
    ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
    with theirs, pytest.raises(ValueError, match="neither unix:PATH nor IP:PORT"):
        plane.attach_dgram(plane.add_port(), ours, send_to="nowhere")


def test_closed_means_closed() -> None:
    plane = Dataplane(2)
    assert plane.workers == 2
    plane.close()
    plane.close()
    with pytest.raises(RuntimeError, match="closed"):
        plane.add_switch()


def test_a_forked_child_is_told() -> None:
    script = """
        import os, sys
        from vbackend.dataplane import Dataplane
        plane = Dataplane()
        child = os.fork()
        if child == 0:
            try:
                plane.add_switch()
            except RuntimeError as error:
                os._exit(0 if "fork" in str(error) else 1)
            os._exit(2)
        status = os.waitpid(child, 0)[1]
        plane.add_switch()
        plane.close()
        sys.exit(os.waitstatus_to_exitcode(status))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=30)


def test_build_info_and_drop_reasons_are_told() -> None:
    assert build_info()["profile"] in {"release", "dev"}
    names = [name for name, _ in drop_reasons()]
    assert len(set(names)) == len(names)
    assert {"queue-full", "runt", "no-peer"} <= set(names)


def test_what_passes_a_port_is_captured(plane: Dataplane) -> None:
    segment = plane.add_switch()
    (a, peer_a), (_, peer_b) = stream(plane, segment), stream(plane, segment)
    capture = NativeCapture(1, count=2)
    plane.capture(a, capture, 0, snaplen=20)
    with peer_a, peer_b:
        assert select.select([capture], [], [], 0)[0] == []
        peer_a.sendall(wire(frame(2, 1)) * 3)
        eventually(lambda: plane.counters(a)[0].frames_out == 3)
        assert select.select([capture], [], [], 10)[0] == [capture]
        assert (capture.ended, capture.counts()[0][1:]) == (False, (2, 0))
        blocks = capture.read(1000)
        assert (len(blocks), capture.read(1000), capture.ended) == (2 * 64, b"", True)
        plane.uncapture(a, capture)
        plane.uncapture(a, capture)
    fresh = NativeCapture(1)
    fresh.end()
    assert fresh.ended


def test_captures_that_make_no_sense(plane: Dataplane) -> None:
    port, capture = plane.add_port(), NativeCapture(1)
    with pytest.raises(ValueError, match="no interface 1; there are 1"):
        plane.capture(port, capture, 1, snaplen=1)
    with pytest.raises(ValueError, match='"up" is no lane'):
        plane.capture(port, capture, 0, snaplen=1, lane="up")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="BPF instruction 0: unknown"):
        plane.capture(port, capture, 0, snaplen=1, program=[(0xFF, 0, 0, 0)])
    with pytest.raises(KeyError):
        plane.capture(port + 1, capture, 0, snaplen=1)
    with pytest.raises(KeyError):
        plane.uncapture(port + 1, capture)


UNIT_MAC, GUEST_MAC = bytes([2, 0, 0, 0, 0, 9]), bytes([2, 0, 0, 0, 0, 1])
LOCAL, PEER = IPv4Address("10.7.0.1"), IPv4Address("10.7.0.2")
ADAPTER = AdapterConfig(mac=UNIT_MAC, pointopoint=True, local=(LOCAL,), peers=(PEER,))


def ready_unit(*, ticket: int = 1) -> NativeUnit:
    unit = NativeUnit()
    flags = int(READY) if ticket else int(READY & ~TunFlag.OPEN)
    unit.set_state(flags=flags, index=1, ticket=ticket, tunmtu=1500, header="none", system="netbsd", owner=0)
    return unit


def packet(source: IPv4Address, to: IPv4Address) -> bytes:
    return b"\x45\0\0\x14" + bytes(8) + source.packed + to.packed


def test_a_port_is_the_far_side_of_a_unit(plane: Dataplane) -> None:
    segment = plane.add_cable()
    _, guest = stream(plane, segment)
    port = plane.add_port()
    plane.join(port, segment)
    unit = ready_unit()
    assert plane.attach_unit(port, unit, ADAPTER) == 1
    with guest:
        sent, answer = packet(PEER, LOCAL), packet(LOCAL, PEER)
        guest.sendall(wire(UNIT_MAC + GUEST_MAC + b"\x08\0" + sent))
        assert select.select([unit.poll_fd(1)], [], [], 10)[0]
        assert unit.read(1, 2048) == sent
        assert unit.write(1, answer) == 20
        reply = guest.recv(2048)
        assert reply[4:18] == GUEST_MAC + UNIT_MAC + b"\x08\0"
        assert reply[18:38] == answer
        assert unit.take_input() is None
        moved = bytes([2, 0, 0, 0, 0, 8])
        plane.configure_unit(port, dataclasses.replace(ADAPTER, mac=moved))
        unit.write(1, answer)
        assert guest.recv(2048)[10:16] == moved
        rx, tx = plane.counters(port)
        assert balanced(rx)
        assert balanced(tx)


def test_the_engine_reads_and_writes_a_unit(plane: Dataplane) -> None:
    """A SOCK_SEQPACKET socket in place of a program that has the unit open."""
    segment = plane.add_cable()
    _, guest = stream(plane, segment)
    port = plane.add_port()
    plane.join(port, segment)
    unit = ready_unit(ticket=0)
    plane.attach_unit(port, unit, ADAPTER)
    ours, program = socket.socketpair(type=socket.SOCK_SEQPACKET)
    program.settimeout(10)
    session = plane.attach_reader(port, ours, device=False)
    unit.set_state(flags=int(READY), index=1, ticket=1, tunmtu=1500, header="none", system="netbsd", owner=0)
    with guest, program:
        sent = packet(PEER, LOCAL)
        guest.sendall(wire(UNIT_MAC + GUEST_MAC + b"\x08\0" + sent))
        assert program.recv(2048) == sent
        program.send(packet(LOCAL, PEER))
        assert guest.recv(2048)[18:38] == packet(LOCAL, PEER)
        plane.detach_reader(port)
        assert program.recv(2048) == b""
        plane.detach_reader(port)
        assert plane.drain_events() == []
    assert session > 0


def test_units_that_make_no_sense(plane: Dataplane) -> None:
    port, unit = plane.add_port(), ready_unit()
    with pytest.raises(KeyError):
        plane.attach_unit(port + 1, unit, ADAPTER)
    with pytest.raises(ValueError, match=r"\w"):
        plane.attach_unit(port, unit, dataclasses.replace(ADAPTER, mac=b"short"))
    with pytest.raises(ValueError, match=r"\w"):
        plane.configure_unit(port, ADAPTER)
    state = {"flags": 0, "index": 1, "ticket": 0, "tunmtu": 1500, "owner": 0}
    for words in ({"header": "ppp", "system": "linux"}, {"header": "none", "system": "minix"}):
        with pytest.raises(ValueError, match="is no"):
            unit.set_state(**state, **words)  # type: ignore[arg-type]
    assert unit.view()["queued"] == 0


class NativeRecorder:
    """The engine's vhost-user calls, written down; a descriptor is the name of the file behind it."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def __getattr__(self, name: str) -> Callable[..., object]:
        def call(*arguments: object, **keys: object) -> object:
            self.calls.append((name, *arguments, *keys.values()))
            return None

        return call


def test_vhost_calls_give_their_descriptors_away() -> None:
    plane, native = Dataplane.__new__(Dataplane), NativeRecorder()
    plane._engine = cast(Any, native)
    fds = [OwnedFd(os.open(os.devnull, os.O_RDONLY)) for _ in range(8)]
    numbers = [fd.fileno() for fd in fds]
    plane.attach_vhost(1, busy_poll_us=50)
    plane.vhost_features(1, 1 << 32)
    plane.vhost_set_memory(1, [(2, 3, 4, 5, fds[0]), (6, 7, 8, 9, fds[1])])
    plane.vhost_add_memory(1, 2, 3, 4, 5, fds[2])
    plane.vhost_remove_memory(1, 2, 3, 4)
    plane.vhost_start_ring(1, 0, size=256, base=5, descriptors=6, driver=7, device=8)
    plane.vhost_stop_ring(1, 0)
    plane.vhost_enable_ring(1, 0, True)
    for give, fd in zip(
        (plane.vhost_set_kick, plane.vhost_set_call, plane.vhost_set_err), fds[3:6], strict=True
    ):
        give(1, 0, fd)
        give(1, 0, None)
    plane.vhost_set_log(1, 4096, 0, fds[6])
    plane.vhost_set_log_call(1, fds[7])
    plane.vhost_rings(1)
    assert native.calls == [
        ("attach_vhost", 1, 50),
        ("vhost_features", 1, 1 << 32),
        ("vhost_set_memory", 1, [(2, 3, 4, 5, numbers[0]), (6, 7, 8, 9, numbers[1])]),
        ("vhost_add_memory", 1, 2, 3, 4, 5, numbers[2]),
        ("vhost_remove_memory", 1, 2, 3, 4),
        ("vhost_start_ring", 1, 0, 256, 5, 6, 7, 8),
        ("vhost_stop_ring", 1, 0),
        ("vhost_enable_ring", 1, 0, True),
        ("vhost_set_kick", 1, 0, numbers[3]),
        ("vhost_set_kick", 1, 0, None),
        ("vhost_set_call", 1, 0, numbers[4]),
        ("vhost_set_call", 1, 0, None),
        ("vhost_set_err", 1, 0, numbers[5]),
        ("vhost_set_err", 1, 0, None),
        ("vhost_set_log", 1, 4096, 0, numbers[6]),
        ("vhost_set_log_call", 1, numbers[7]),
        ("vhost_rings", 1),
    ]
    assert all(fd.closed for fd in fds)
    for number in numbers:
        os.close(number)


def test_a_table_with_an_empty_descriptor_takes_none() -> None:
    plane = Dataplane.__new__(Dataplane)
    with OwnedFd(os.open(os.devnull, os.O_RDONLY)) as fd, OwnedFd(os.dup(fd.fileno())) as gone:
        gone.close()
        with pytest.raises(ValueError, match="closed"):
            plane.vhost_set_memory(1, [(0, 1, 0, 0, fd), (2, 1, 0, 0, gone)])
        assert not fd.closed


def test_a_stopped_ring_is_an_event() -> None:
    event = SimpleNamespace(kind="ring-stopped", port=1, session=2, reason="a loop", value=3)
    plane = Dataplane.__new__(Dataplane)
    plane._engine = cast(Any, SimpleNamespace(drain_events=lambda: [event]))
    assert plane.drain_events() == [RingStopped(1, 2, ring=3, problem="a loop")]
