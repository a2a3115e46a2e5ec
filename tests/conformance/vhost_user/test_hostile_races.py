"""A guest whose memory is rewritten in a tight loop while the port reads descriptors and writes frames into buffers.

The rings are stopped and started anew all the while; the others notice nothing.
"""

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from itertools import count

import pytest

from tests.conformance.vhost_user.lab import BAD, SINK, Lab, end_turn, sink_lab, vhost_lab
from tests.support.frames import frame, stream
from tests.support.hammer import Place, hammered
from vbackend.testing.vhost.frontend import FrontEnd, Queue
from vbackend.testing.vhost.memory import PAGE, GuestMemory
from vbackend.testing.vhost.nic import NO_FEATURES, Pair, make_ring
from vbackend.testing.vhost.packed import AVAIL, USED
from vbackend.testing.vhost.ring import INDIRECT, NEXT, WRITE
from vbackend.testing.vhost.split import SplitRing
from vbackend.testing.vhost.wire import Feature

SIZE = 16
MEMORY = 4 << 20
DATA = 0x20_0000  # buffers
TABLE = 0x10_0000  # an indirect table
ROUNDS = 150
FOUR_GIB = 0xFFFF_FFFF

LAYOUTS = pytest.mark.parametrize("layout", [NO_FEATURES, Feature.RING_PACKED], ids=["split", "packed"])
GSO = Feature.CSUM | Feature.GUEST_CSUM | Feature.HOST_TSO4 | Feature.GUEST_TSO4


def mostly(good: Sequence[bytes], bad: Sequence[bytes]) -> list[bytes]:
    """One bad value for about fifteen good ones."""
    return [*good, *good] * (15 * len(bad) // (2 * len(good)) + 1) + list(bad)


def descriptor(at: int, write: int, packed: bool) -> list[Place]:
    """Places of one descriptor: as a whole, and its fields by themselves."""
    inside = [DATA + PAGE * n for n in (0, 1, 9, 40)]
    addresses = mostly(
        [struct.pack("<Q", each) for each in (*inside, TABLE)],
        [struct.pack("<Q", each) for each in (MEMORY - 13, MEMORY, 1 << 63, (1 << 64) - 1)],
    )
    lengths = mostly(
        [struct.pack("<I", each) for each in (0, 1, 11, 12, 13, 16, 64, 128, 256, 1526, 40_000)],
        [struct.pack("<I", each) for each in (70_000, FOUR_GIB)],
    )
    chains = [
        flags ^ write | turn for flags in (0, NEXT, INDIRECT) for turn in ((AVAIL, USED) if packed else (0,))
    ]
    links = [
        (0, flags) if packed else (flags, following) for flags in chains for following in (0, 1, 7, SIZE - 1)
    ]
    bad = [(SIZE, WRITE ^ write | NEXT | AVAIL), (0, 0xFFFF), (0xFFFF, 0)]
    ends = mostly([struct.pack("<HH", *each) for each in links], [struct.pack("<HH", *each) for each in bad])
    whole = [struct.pack("<QI", DATA, 1526) + end for end in ends]
    return [(at, addresses), (at + 8, lengths), (at + 12, ends), (at, whole)]


def bare_rings(front: FrontEnd) -> tuple[Queue, Queue]:
    queues = [front.add(make_ring(front.memory, SIZE, front.features)) for _ in range(2)]
    for queue in queues:
        front.start(queue)
        front.enable(queue)
    return queues[0], queues[1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One where nonsense is taken from `bad`, and nothing of it goes to the others: they would drown in it."""
    with vhost_lab(tmp_path_factory.mktemp("lab"), f"mac={BAD.hex(':')}") as made:
        yield made


@LAYOUTS
def test_rings_are_rewritten_while_they_are_read(lab: Lab, layout: Feature) -> None:
    features = layout | GSO | Feature.INDIRECT_DESC | Feature.EVENT_IDX | Feature.MRG_RXBUF
    packed = layout is Feature.RING_PACKED
    with (
        lab.undisturbed(),
        GuestMemory([(0, MEMORY)]) as memory,
        lab.front("bad", features, memory=memory) as front,
    ):
        queues = bare_rings(front)
        places = [
            place
            for queue in queues
            for slot in range(SIZE)
            for at in (queue.ring.descriptors + 16 * slot, TABLE + 16 * slot)
            for place in descriptor(at, 0 if queue.index else WRITE, packed)
        ]
        # Headers of virtio-net, Ethernet and IP, too.
        values = [bytes([value]) for value in (0, 1, 4, 6, 8, 0x45, 255)]
        places += [(DATA + PAGE * n + at, values) for n in (0, 1) for at in range(80)]
        stops = [0, 0]

        def frames() -> list[int]:
            return [lab.ring("bad", queue.index).frames for queue in queues]

        with hammered(memory.regions[0], places):
            for number in count():
                if number >= ROUNDS and min(stops) > 5 and (min(frames()) > 0 or number >= 20 * ROUNDS):
                    break
                for queue in queues:
                    if isinstance(queue.ring, SplitRing):
                        for slot in range(SIZE):
                            memory.store(queue.ring.driver + 4 + 2 * slot, slot)
                        queue.ring.set_index(queue.ring.base + SIZE)
                    if queue.errors():
                        stops[queue.index] += 1
                        front.set_kick(queue)
                    os.eventfd_write(queue.kick, 1)
                end_turn(front)
        assert min(frames()) > 0


def internet_sum(data: bytes) -> int:
    """RFC 1071, of whole words."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def burst(segments: int) -> bytes:
    """TCP segments of 1448 bytes to `bad`, with right checksums, which are merged for a guest that takes that."""
    ends, frames = bytes((10, 0, 0, 1, 10, 0, 0, 2)), []
    for n in range(segments):
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 40 + 1448, n, 0x4000, 64, 6, 0) + ends
        tcp = struct.pack(">HHIIBBHHH", 1000, 80, 1 + 1448 * n, 1, 5 << 4, 0x10, 1000, 0, 0) + bytes(1448)
        checks = internet_sum(ip), internet_sum(ends + struct.pack(">HH", 6, len(tcp)) + tcp)
        packet = (
            ip[:10]
            + checks[0].to_bytes(2, "big")
            + ip[12:]
            + tcp[:16]
            + checks[1].to_bytes(2, "big")
            + tcp[18:]
        )
        frames.append(frame(BAD, SINK, packet, ethertype=0x0800))
    return stream(*frames)


@pytest.fixture(scope="module")
def merging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, socket.socket]]:
    with sink_lab(tmp_path_factory.mktemp("merging")) as made:
        yield made


@LAYOUTS
def test_the_file_of_buffers_is_cut_while_merged_frames_are_written(
    merging: tuple[Lab, socket.socket], layout: Feature
) -> None:
    """Only some of a frame's chains are behind the end of the file: SIGBUS in its middle, or where its header goes."""
    lab, peer = merging
    for pages in (0, 1, 20):
        memory = GuestMemory([(0, 1 << 20), (1 << 20, 1 << 20)])
        features = layout | GSO | Feature.MRG_RXBUF
        with lab.undisturbed(), lab.front("bad", features, memory=memory) as front:
            pair = Pair(front, 256, rx_chain=(8, 1500))
            pair.use(8, [(1 << 20) + PAGE * n for n in reversed(range(255))])
            pair.use(1500, [(1 << 20) + PAGE * n + 2000 for n in reversed(range(255))])  # taken from the end
            os.ftruncate(memory.regions[1].fd, PAGE * pages)
            pair.start()
            pair.send(frame(b"\xff" * 6, BAD))
            peer.sendall(burst(40))
            front.expect_end()
            lab.wait_end("bad", "cut short")


@LAYOUTS
@pytest.mark.parametrize("room", [1, 11, 12, 13])
def test_buffers_of_next_to_nothing(merging: tuple[Lab, socket.socket], layout: Feature, room: int) -> None:
    """The header itself is spread over chains; frames that all of them cannot hold are dropped, others arrive."""
    lab, peer = merging
    with lab.undisturbed(), lab.front("bad", layout | GSO | Feature.MRG_RXBUF) as front:
        pair = Pair(front, 1024, rx_chain=(room,))
        pair.start()
        pair.fill(1024)
        pair.send(frame(b"\xff" * 6, BAD))
        pair.flush()

        def is_dropped() -> int:
            pair.rx.ring.reap()
            pair.fill(1024)
            peer.sendall(burst(40))
            return lab.port("bad").tx.drops.get("oversize", 0)

        lab.wait_for(is_dropped, "a merged frame does not fit")
        end_turn(front)
        assert lab.ring("bad", 0).problem == ""
