"""virtio-net headers that lie (VIRTIO 1.2 §5.1.6.2): offsets outside the frame, segments of no size, unheard-of types.

The frames go to a stream port, which takes no offloads: there checksums are completed and segments cut, on the word of
the header.
"""

import itertools
import random
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conformance.vhost_user.lab import BAD, SINK, Lab, sink_lab
from tests.support.frames import frame
from tests.support.pcapng import read
from vbackend.testing.vhost.nic import NO_FEATURES, Pair, VnetHeader
from vbackend.testing.vhost.wire import Feature

OFFLOADS = (
    Feature.CSUM
    | Feature.GUEST_CSUM
    | Feature.HOST_TSO4
    | Feature.HOST_TSO6
    | Feature.HOST_ECN
    | Feature.GUEST_TSO4
    | Feature.GUEST_TSO6
)
NEEDS_CSUM = 1
TCPV4, UDP, TCPV6, UDP_L4, ECN = 1, 3, 4, 5, 0x80  # VIRTIO_NET_HDR_GSO_*
GOOD = (TCPV4, TCPV6, UDP_L4)
FLAGS = (0, 1, 2, 3, 4, 0xFF)
TYPES = (0, TCPV4, TCPV4 | ECN, UDP, TCPV6, TCPV6 | ECN, UDP_L4, 2, 0x7F, ECN, 0xFF)
_CAPTURE = (sys.executable, "-c", "from vbackend.cli.main import main; main()", "capture")
NUMBERS = (0, 1, 13, 14, 15, 16, 20, 34, 40, 50, 54, 60, 66, 74, 1460, 8947, 32_767, 32_768, 65_534, 65_535)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with sink_lab(tmp_path_factory.mktemp("lab")) as (made, _):
        yield made


def ipv4(protocol: int, payload: bytes) -> bytes:
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0x4000, 64, protocol, 0)
    return head + bytes((10, 0, 0, 1, 10, 0, 0, 2)) + payload


def ipv6(protocol: int, payload: bytes) -> bytes:
    return struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64) + bytes(31) + b"\x01" + payload


def tcp(size: int) -> bytes:
    return struct.pack(">HHIIBBHHH", 1000, 80, 1, 1, 5 << 4, 0x18, 1000, 0, 0) + bytes(size)


def udp(size: int) -> bytes:
    return struct.pack(">HHHH", 1000, 53, 8 + size, 0) + bytes(size)


def frames(size: int) -> list[bytes]:
    """Of several kinds, with `size` bytes of payload."""
    return [
        frame(SINK, BAD, ipv4(6, tcp(size)), ethertype=0x0800),
        frame(SINK, BAD, ipv6(6, tcp(size)), ethertype=0x86DD),
        frame(SINK, BAD, ipv4(17, udp(size)), ethertype=0x0800),
        frame(SINK, BAD, ipv6(17, udp(size)), ethertype=0x86DD),
        frame(SINK, BAD, bytes(size)),
        frame(SINK, BAD, struct.pack(">HH", 5, 0x0800) + ipv4(6, tcp(size)), ethertype=0x8100),
    ]


@contextmanager
def sender(lab: Lab, features: Feature) -> Iterator[Pair]:
    with lab.undisturbed(), lab.front("bad", features) as front:
        pair = Pair(front, 64)
        pair.start()
        yield pair
        pair.flush()
        for queue in front.queues:
            assert lab.ring("bad", queue.index).problem == ""


@pytest.mark.parametrize("layout", [NO_FEATURES, Feature.RING_PACKED], ids=["split", "packed"])
@pytest.mark.parametrize("size", [0, 1, 100, 1460, 20_000])
def test_every_type_with_every_number(lab: Lab, layout: Feature, size: int) -> None:
    chance = random.Random(size)
    with sender(lab, layout | OFFLOADS) as pair:
        for each in frames(size):
            for gso_type in TYPES:
                for number in NUMBERS:
                    fields = [number, *chance.choices(NUMBERS, k=3)]
                    chance.shuffle(fields)
                    header = VnetHeader(chance.choice(FLAGS), gso_type, *fields)
                    pair.send(each, header)


@pytest.mark.parametrize("gso_type", [TCPV4, TCPV6, UDP_L4, UDP])
def test_segments_of_one_byte(lab: Lab, gso_type: int) -> None:
    """Tens of thousands of them would come out of one frame."""
    with sender(lab, OFFLOADS) as pair:
        for each in frames(60_000)[:4]:
            pair.send(each, VnetHeader(NEEDS_CSUM, gso_type, 54, 1, 34, 16))


@pytest.mark.parametrize("seed", range(4))
def test_headers_and_frames_of_nonsense(lab: Lab, seed: int) -> None:
    """True frames with some bytes changed, cut at any length."""
    chance = random.Random(seed)
    with sender(lab, OFFLOADS) as pair:
        for _ in range(500):
            data = bytearray(chance.choice(frames(chance.choice((0, 7, 1460, 9000)))))
            for _ in range(chance.randrange(4)):
                data[chance.randrange(12, min(80, len(data)))] = chance.getrandbits(8)
            sent = bytes(data[: chance.choice((len(data), chance.randrange(14, len(data) + 1)))])
            fields = [
                chance.choice((*NUMBERS, len(sent), len(sent) - 1, chance.getrandbits(16))) for _ in range(4)
            ]
            pair.send(sent, VnetHeader(chance.choice(FLAGS), chance.choice(TYPES), *fields))


def test_offloads_that_were_not_negotiated(lab: Lab) -> None:
    with sender(lab, NO_FEATURES) as pair:
        for each in frames(1460):
            for gso_type in TYPES:
                pair.send(each, VnetHeader(NEEDS_CSUM, gso_type, 54, 500, 34, 16))


def test_headers_of_kilobytes_in_front_of_each_segment(lab: Lab) -> None:
    """IPv6 options as long as the frame allows: hundreds of megabytes would come out of one frame."""
    option = bytes([60, 255]) + bytes(2046)
    headers = option * 15 + bytes([6, 255]) + bytes(2046)
    data = frame(SINK, BAD, ipv6(60, headers + tcp(32_000)), ethertype=0x86DD)
    with sender(lab, OFFLOADS) as pair:
        before = lab.port("bad").rx.drops.get("bad-offload", 0)
        for _ in range(8):
            pair.send(data, VnetHeader(NEEDS_CSUM, TCPV6, 54, 8, 54 + len(headers), 16))
        pair.flush()
        assert lab.port("bad").rx.drops["bad-offload"] == before + 8


def test_on_lines_that_are_bad_and_captured(tmp_path: Path) -> None:
    """Frames are cut before they are delayed, doubled and damaged, and where they are recorded."""
    delay = "delay=200us,jitter=100us"
    chance = random.Random(5)
    file = tmp_path / "capture.pcapng"
    with sink_lab(tmp_path, delay, f"{delay},duplicate=20%,corrupt=20%,reorder=10%,seed=4") as (lab, _):
        command = [*_CAPTURE, "bad", "sink", "-w", str(file), "--control", str(lab.run.control)]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as capture:
            try:
                lab.wait_for(lambda: file.exists() and file.stat().st_size, "it is captured")
                lab.expect_descriptors()
                with sender(lab, OFFLOADS) as pair:
                    for size in (0, 100, 1460, 20_000):
                        for each, gso_type in itertools.product(frames(size), TYPES):
                            for number in chance.sample(NUMBERS, 3):
                                fields = [number, *chance.choices(NUMBERS, k=3)]
                                chance.shuffle(fields)
                                pair.send(each, VnetHeader(chance.choice(FLAGS), gso_type, *fields))
                    for each, gso_type, start in zip(frames(30_000), GOOD, (34, 54, 34), strict=False):
                        offset = 6 if gso_type == UDP_L4 else 16
                        pair.send(each, VnetHeader(NEEDS_CSUM, gso_type, 54, 1448, start, offset))
            finally:
                capture.terminate()
            assert capture.wait(20) == 0
    found = read(file)
    comments = {packet.comment for packet in found.of("sink") if packet.comment}
    for word in ("corrupted", "duplicate", "delayed"):
        assert any(word in each for each in comments), f"nothing was {word}"
    cut = [packet for packet in found.of("bad", "in") if len(packet.data) > 1400 and not packet.comment]
    assert len(cut) >= 60, "segments are recorded, not what they were cut from"
