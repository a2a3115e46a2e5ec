"""What bulk TCP from a guest to a tap costs a worker, with and without merging: CPU time per segment.

    python -m tests.bench.merging [ROUNDS]

The engine runs in this process, one worker, a stream and a tap on a switch. The guest is a socket that sends the same
44 segments of 1448 bytes (64 KiB, about what a merged frame holds) again and again, checksums right, to a station
that the host is not, so that its stack drops them early. Only the worker's thread is counted. Needs root.
"""

import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from tests.bench.namespace import Namespace, lack, private_namespace
from tests.bench.process import BenchError
from vbackend.dataplane import Dataplane
from vbackend.host.device import VNET_HEADER_LEN, Offloads, open_device, set_header, set_offloads
from vbackend.host.netns import run_in_namespace

__all__ = ["TARGET", "Comparison", "measured", "segments"]

SEGMENTS: Final = 44
SIZE: Final = 1448
BATCHES: Final = 1504
AT_ONCE: Final = 16  # batches a write: the socket is full, as behind a guest that is faster than its worker

# The most that a merged segment may cost, as a part of one write per frame.
TARGET: Final = 1 / 3

_SOURCE, _DESTINATION = bytes([192, 0, 2, 2]), bytes([192, 0, 2, 1])  # RFC 5737
_STATIONS: Final = bytes.fromhex("025400000001 025400000002")
_IFNAME: Final = "bulk0"
_DEADLINE_S: Final = 60.0
_READ_BYTES: Final = 256 * 1024  # more than a Unix socket holds


@dataclass(frozen=True, slots=True)
class Comparison:
    """CPU time per segment, ns; medians of the rounds."""

    single: float  # one write per frame, no virtio-net header
    merged: float
    least: float  # the same bytes read and written in as few system calls, without a look at them

    @property
    def ratio(self) -> float:
        return self.merged / self.single

    def __str__(self) -> str:
        verdict = "met" if self.ratio <= TARGET else "missed"
        return (
            f"stream → tap, TCP, {SIZE} B: {self.single / 1000:.3f} µs per segment written alone, "
            f"{self.merged / 1000:.3f} µs merged: {self.ratio:.2f} of it (target ≤ {TARGET:.2f}: {verdict}); "
            f"reading and writing alone {self.least / 1000:.3f} µs: {self.least / self.single:.2f}"
        )


def segments(count: int, size: int) -> list[bytes]:
    """Consecutive TCP segments of one flow, as Ethernet frames with right checksums."""
    return [_segment(index * size, index, bytes(size)) for index in range(count)]


def _segment(sequence: int, number: int, data: bytes) -> bytes:
    tcp = struct.pack(">HHIIBBHHH", 50_000, 5201, sequence, 1, 5 << 4, 0x10, 502, 0, 0) + data
    checksum = _checksum(_SOURCE + _DESTINATION + struct.pack(">HH", 6, len(tcp)) + tcp)
    tcp = tcp[:16] + checksum + tcp[18:]
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), number, 0x4000, 64, 6, 0) + _SOURCE + _DESTINATION
    ip = ip[:10] + _checksum(ip) + ip[12:]
    return _STATIONS + b"\x08\x00" + ip + tcp


def _checksum(data: bytes) -> bytes:
    """RFC 1071."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">H", total ^ 0xFFFF)


@contextmanager
def _engine(netns: str, *, merging: bool) -> Iterator[tuple[Dataplane, int, socket.socket]]:
    """An engine with both ports; the tap's number, and the guest's end of the stream."""
    tap = run_in_namespace(netns, lambda: open_device("tap", _IFNAME, existing=None, vnet_hdr=merging))
    if merging:
        set_header(tap, VNET_HEADER_LEN)
    offloads = set_offloads(tap, wanted=merging)
    ours, guest = socket.socketpair()
    with Dataplane(1) as plane, guest:
        segment = plane.add_switch()
        stream_port, tap_port = (plane.add_port(queue_frames=65_536, queue_bytes=1 << 28) for _ in range(2))
        for port in (stream_port, tap_port):
            plane.join(port, segment)
        plane.attach_stream(stream_port, ours)
        plane.attach_tap(tap_port, tap, vnet_hdr=merging, uso=Offloads.USO4 in offloads)
        yield plane, tap_port, guest


def _cost(netns: Namespace, *, merging: bool, batches: int) -> float:
    """CPU time of the worker per segment, ns. BenchError when segments are lost."""
    batch = b"".join(struct.pack(">I", len(frame)) + frame for frame in segments(SEGMENTS, SIZE))
    with _engine(netns.name, merging=merging) as (plane, tap, guest):
        netns.up(_IFNAME)
        (worker,) = _threads("vbackend-")
        before = _cpu_ns(worker)
        for _ in range(batches // AT_ONCE):
            guest.sendall(batch * AT_ONCE)
        total, deadline = SEGMENTS * (batches // AT_ONCE * AT_ONCE), time.monotonic() + _DEADLINE_S
        while (lane := plane.counters(tap)[1]).frames_out < total:
            if time.monotonic() > deadline:
                raise BenchError(f"bulk: {lane.frames_out} of {total} segments left; dropped: {lane.drops}")
            time.sleep(0.01)
        return (_cpu_ns(worker) - before) / total


def _least(netns: Namespace, *, batches: int) -> float:
    """CPU time per segment of a thread that reads what there is and writes it to a tap in the largest frames, ns."""
    tap = run_in_namespace(netns.name, lambda: open_device("tap", _IFNAME, existing=None, vnet_hdr=True))
    set_header(tap, VNET_HEADER_LEN)
    netns.up(_IFNAME)
    wire = b"".join(struct.pack(">I", len(frame)) + frame for frame in segments(SEGMENTS, SIZE))
    guest, ours = socket.socketpair()
    with guest, ours:
        sender = threading.Thread(target=_send_and_close, args=(guest, wire, batches))
        sender.start()
        frame = bytearray(VNET_HEADER_LEN + SIZE * SEGMENTS + len(_STATIONS) + 42)
        frame[VNET_HEADER_LEN:] = segments(1, len(frame) - VNET_HEADER_LEN - 54)[0]
        frame[:VNET_HEADER_LEN] = struct.pack("<BBHHHHH", 1, 1, 54, SIZE, 34, 16, 0)  # NEEDS_CSUM, TCPV4
        place, unwritten = memoryview(bytearray(_READ_BYTES)), 0
        before = time.thread_time_ns()
        while received := ours.recv_into(place):
            unwritten += received
            while unwritten >= len(wire):
                unwritten -= len(wire)
                os.write(tap.fileno(), frame)
        spent = time.thread_time_ns() - before
        sender.join()
    tap.close()
    return spent / (SEGMENTS * batches)


def _send_and_close(guest: socket.socket, wire: bytes, batches: int) -> None:
    for _ in range(batches // AT_ONCE):
        guest.sendall(wire * AT_ONCE)
    guest.shutdown(socket.SHUT_WR)


def _threads(name: str) -> list[Path]:
    """This process's threads whose names begin so."""
    return [
        task for task in Path("/proc/self/task").iterdir() if (task / "comm").read_text().startswith(name)
    ]


def _cpu_ns(task: Path) -> int:
    return int((task / "schedstat").read_text().split()[0])


def measured(rounds: int, batches: int = BATCHES) -> Comparison:
    """Measure all ways in turn; one more round first, not told. BenchError: it cannot be measured here."""
    if why := lack():
        raise BenchError(why)
    ways: dict[str, Callable[[Namespace], float]] = {
        "single": lambda netns: _cost(netns, merging=False, batches=batches),
        "merged": lambda netns: _cost(netns, merging=True, batches=batches),
        "least": lambda netns: _least(netns, batches=batches),
    }
    costs: dict[str, list[float]] = {way: [] for way in ways}
    with private_namespace(f"vbbulk-{os.getpid()}") as netns:
        for number in range(rounds + 1):
            for way, measure in ways.items():
                cost = measure(netns)
                if number:
                    costs[way].append(cost)
    return Comparison(**{way: median(each) for way, each in costs.items()})


if __name__ == "__main__":
    try:
        print(measured(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
    except BenchError as error:
        sys.exit(f"bench: {error}")
