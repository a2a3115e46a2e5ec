"""virtio-net headers that lie (VIRTIO 1.2 §5.1.6.2): offsets outside the frame, segments of no size, unheard-of types.

The frames go to a stream port, which takes no offloads: there checksums are completed and segments cut, on the word of
the header.
"""

import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.conformance.vhost_user.lab import BAD, Lab, vhost_lab
from tests.support.frames import BROADCAST, MAX_FRAME, MIN_FRAME, frame, mac, stream
from vbackend.testing.vhost.nic import NO_FEATURES, Pair, VnetHeader
from vbackend.testing.vhost.wire import Feature

SINK = mac(0xABCDE)
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
FLAGS = (0, 1, 2, 3, 4, 0xFF)
TYPES = (0, TCPV4, TCPV4 | ECN, UDP, TCPV6, TCPV6 | ECN, UDP_L4, 2, 0x7F, ECN, 0xFF)
NUMBERS = (0, 1, 13, 14, 15, 16, 20, 34, 40, 50, 54, 60, 66, 74, 1460, 8947, 32_767, 32_768, 65_534, 65_535)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """With a fourth port, whose peer reads frames and forgets them, once it has seen that they are some."""
    folder = tmp_path_factory.mktemp("lab")
    with vhost_lab(folder, more=[f"stream:unix:{folder}/sink"]) as made:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(f"{folder}/sink")
            sock.sendall(stream(frame(BROADCAST, SINK)))
            made.wait_for(lambda: made.port("sink").rx.frames_out == 1, "its address is learned")
            odd: list[int] = []
            thread = threading.Thread(target=_read, args=(sock, odd))
            thread.start()
            made.expect_descriptors()
            try:
                yield made
            finally:
                sock.shutdown(socket.SHUT_RDWR)
                thread.join(20)
        assert odd == [], "lengths that no frame has"


def _read(sock: socket.socket, odd: list[int]) -> None:
    with sock.makefile("rb") as wire:
        while len(prefix := wire.read(4)) == 4:
            length = int.from_bytes(prefix, "big")
            if not MIN_FRAME <= length <= MAX_FRAME:
                odd.append(length)
                return
            wire.read(length)


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
