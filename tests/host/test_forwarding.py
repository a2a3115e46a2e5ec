"""Frames between kernels: taps and tuns in namespaces, joined by `vbackend run` as a user runs it.

Every run ends with the accounts of all its ports checked (tests/support/run.py).
"""

import socket
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.accounting import lanes_of
from tests.support.frames import BROADCAST, frame, mac, numbered, vlan_frame
from tests.support.netns import Namespace, namespace
from tests.support.qemu_peers import FakeStreamPeer
from tests.support.run import Run, vbackend_run
from tests.support.stacks import RawPort, join_multicast, multicast_sender, ping, socket_in, transfer

pytestmark = pytest.mark.root

A4, A6, B4, B6 = "10.0.0.1", "fd00::1", "10.0.0.2", "fd00::2"
BULK = bytes(range(256)) * 8192  # 2 MiB
BULK_SEGMENTS = 2 * (len(BULK) // 1448)  # of two of them
LINK_LOCAL = [bytes.fromhex(f"0180c20000{last:02x}") for last in range(16)]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two namespaces that only vbackend joins."""

    a: Namespace
    b: Namespace
    folder: Path

    def taps(self, mtu: int = 1500) -> tuple[str, str]:
        """A tap in each, "ta" without and "tb" with offloads; IPv6 where the MTU allows it."""
        a6, b6 = (f",addr={A6}/64", f",addr={B6}/64") if mtu >= 1280 else ("", "")
        return (
            f"tap:ta,netns={self.a.name},addr={A4}/24{a6},mtu={mtu},offloads=off",
            f"tap:tb,netns={self.b.name},addr={B4}/24{b6},mtu={mtu}",
        )

    def tun_and_tap(self, mtu: int = 1500, more: str = "") -> tuple[str, str]:
        """A tun in one, with `more` options, and a tap with Ethernet, as a guest has it, in the other."""
        return (
            f"tun:ta,netns={self.a.name},addr={A4},peer={B4},addr={A6},peer={B6},mtu={mtu}{more}",
            f"tap:tb,netns={self.b.name},addr={B4}/24,addr={B6}/64,mtu={mtu}",
        )


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with namespace() as a, namespace() as b:
        yield Pair(a, b, tmp_path)


@pytest.fixture(params=["1", "2"], ids=["one worker", "two workers"])
def joined(pair: Pair, request: pytest.FixtureRequest) -> Iterator[Run]:
    """The two taps on a switch."""
    with vbackend_run(pair.folder, "--workers", request.param, *pair.taps()) as run:
        yield run


def from_us(each: bytes) -> bool:
    return each[6:12] in (mac(1), mac(2))


def lost(run: Run) -> Counter[str]:
    """Frames lost so far, by port, direction and reason. What a kernel says before both ports are there is lost."""
    return Counter(
        {
            f"{port.name} {lane} {reason}": count
            for port in run.snapshot().ports
            for lane, counters in lanes_of(port).items()
            for reason, count in counters.drops.items()
        }
    )


@pytest.mark.parametrize(
    ("segment", "mtu"), [("--switch", 68), ("--switch", 1500), ("--switch", 9000), ("--cable", 9000)]
)
def test_pings_of_all_sizes(pair: Pair, segment: str, mtu: int) -> None:
    with vbackend_run(pair.folder, segment, *pair.taps(mtu)) as run:
        before = lost(run)
        for size in (64, mtu):
            ping(pair.a, B4, size=size)
            ping(pair.b, A4, size=size)
            if mtu >= 1280:
                ping(pair.a, B6, size=size)
                ping(pair.b, A6, size=size)
        assert lost(run) == before
        learned = {(entry.mac, entry.port) for entry in run.snapshot().segments[0].fdb}
        taps = {(pair.a.links()["ta"]["address"], "ta"), (pair.b.links()["tb"]["address"], "tb")}
        assert learned == (taps if segment == "--switch" else set())


@pytest.mark.usefixtures("joined")
def test_fragments(pair: Pair) -> None:
    for target in (B4, B6):
        ping(pair.a, target, size=20_000, fragment=True)
        family = socket.AF_INET6 if ":" in target else socket.AF_INET
        with (
            socket_in(pair.b, family, socket.SOCK_DGRAM) as receiver,
            socket_in(pair.a, family, socket.SOCK_DGRAM) as sender,
        ):
            receiver.bind((target, 0))
            sender.sendto(BULK[:8000], receiver.getsockname()[:2])
            assert receiver.recv(10_000) == BULK[:8000]


@pytest.mark.usefixtures("joined")
@pytest.mark.parametrize("group", ["224.5.6.7", "ff02::5:6:7"])
def test_multicast(pair: Pair, group: str) -> None:
    with join_multicast(pair.b, group, "tb") as member, multicast_sender(pair.a, group, "ta") as sender:
        sender.sendto(b"to all of you", (group, member.getsockname()[1]))
        assert member.recv(100) == b"to all of you"


def test_tcp(pair: Pair, joined: Run) -> None:
    transfer(pair.a, pair.b, B4, BULK)
    transfer(pair.b, pair.a, A6, BULK)
    moved = {port.name: port.tx.bytes_out for port in joined.snapshot().ports}
    assert min(moved.values()) > len(BULK)


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("ours", ["on", "off"])
@pytest.mark.parametrize("theirs", ["on", "off"])
def test_tcp_with_and_without_offloads(pair: Pair, workers: str, ours: str, theirs: str) -> None:
    """Whole GSO frames where both ends have offloads, else cut and merged: the bytes are the same."""
    ports = (
        f"tap:ta,netns={pair.a.name},addr={A4}/24,addr={A6}/64,offloads={ours}",
        f"tap:tb,netns={pair.b.name},addr={B4}/24,addr={B6}/64,offloads={theirs}",
    )
    with vbackend_run(pair.folder, "--workers", workers, *ports) as run:
        for target in (B4, B6):
            transfer(pair.a, pair.b, target, BULK)
        for target in (A4, A6):
            transfer(pair.b, pair.a, target, BULK)
        drops = {reason for port in run.snapshot().ports for reason in {**port.rx.drops, **port.tx.drops}}
        assert not drops & {"offload", "bad-offload"}
        full = BULK_SEGMENTS * 1400
        assert run.port("ta").tx.bytes_out > full
        if ours == theirs == "on":
            assert run.port("ta").tx.frames_out < BULK_SEGMENTS, "GSO frames cross whole"


@pytest.mark.parametrize("offloads", ["on", "off"])
def test_tcp_between_a_tap_and_a_spliced_stream(pair: Pair, offloads: str) -> None:
    """Host and guest on different kinds of port: cut on the way to the stream, merged on the way back."""
    first, second = (f"tap:t{end},netns={ns.name}" for end, ns in (("a", pair.a), ("b", pair.b)))
    path = f"{pair.folder}/between"
    a = (f"{first},addr={A4}/24,addr={A6}/64,offloads={offloads}", f"stream:unix:{path}")
    b = (f"{second},addr={B4}/24,addr={B6}/64,offloads={offloads}", f"stream:unix:{path},dial")
    with (
        vbackend_run(pair.folder, *a, name="listens") as run,
        vbackend_run(pair.folder, *b, name="dials"),
    ):
        run.wait_connected("between")
        for sender, receiver, target in (
            (pair.a, pair.b, B4),
            (pair.b, pair.a, A6),
            (pair.b, pair.a, A4),
            (pair.a, pair.b, B6),
        ):
            transfer(sender, receiver, target, BULK)


def test_tagged_frames_pass_untouched(pair: Pair, joined: Run) -> None:
    frames = [
        vlan_frame(mac(2), mac(1), 0, b"priority only"),
        vlan_frame(mac(2), mac(1), 0xE000 | 4094, b"priority 7, last VLAN" * 50),
        frame(mac(2), mac(1), bytes.fromhex("0064 8100 00c8 88b5") + b"two tags", ethertype=0x88A8),
        frame(BROADCAST, mac(1), b"none", size=1514),
        frame(BROADCAST, mac(1)),
    ]
    before = lost(joined)
    with RawPort(pair.a, "ta") as left, RawPort(pair.b, "tb") as right:
        left.send(*frames)
        assert right.receive(from_us, len(frames)) == frames
        back = vlan_frame(mac(1), mac(2), 7, b"back")
        right.send(back)
        assert left.receive(from_us) == [back]
    assert lost(joined) == before


@pytest.mark.parametrize("segment", ["--switch", "--cable"])
def test_link_local_groups_pass_a_cable_only(pair: Pair, segment: str) -> None:
    special = [frame(group, mac(1), b"bpdu", size=60) for group in LINK_LOCAL]
    near = frame(bytes.fromhex("0180c2000010"), mac(1), b"the first group that is not special", size=60)
    with (
        vbackend_run(pair.folder, segment, *pair.taps()) as run,
        RawPort(pair.a, "ta") as left,
        RawPort(pair.b, "tb") as right,
    ):
        before = lost(run)
        left.send(*special, near)
        expected = [near] if segment == "--switch" else [*special, near]
        assert right.receive(from_us, len(expected)) == expected
        assert lost(run) - before == ({"ta rx link-local": 16} if segment == "--switch" else {})


PACKET_INFORMATION = pytest.mark.parametrize("more", ["", ",pi"], ids=["bare", "packet information"])


@PACKET_INFORMATION
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_tun_and_an_ethernet_guest(pair: Pair, workers: str, more: str) -> None:
    with vbackend_run(pair.folder, "--workers", workers, *pair.tun_and_tap(more=more)) as run:
        assert pair.a.links()["ta"]["linkinfo"]["info_data"]["pi"] is (more == ",pi")
        for size in (64, 1500):
            for ns, target in ((pair.a, B4), (pair.b, A4), (pair.a, B6), (pair.b, A6)):
                ping(ns, target, size=size)
        ping(pair.a, B4, size=8000, fragment=True)
        ping(pair.b, A6, size=8000, fragment=True)
        transfer(pair.a, pair.b, B6, BULK)
        transfer(pair.b, pair.a, A4, BULK)
        with RawPort(pair.b, "tb") as guest:
            guest.send(vlan_frame(BROADCAST, mac(2), 5, b"no IP"))
        run.wait_for(lambda: run.port("ta").tx.drops.get("not-ip"), "a frame without IP was dropped")
        port = run.port("ta")
        assert port.unit is not None
        counters, head = port.unit.counters, 4 if more else 0
        assert counters["oerrors"] == port.tx.drops["not-ip"]
        assert counters["ierrors"] == counters["collisions"] == counters["drops"] == 0
        assert min(counters["ibytes"], counters["obytes"] - head * counters["opackets"]) > len(BULK)


@PACKET_INFORMATION
def test_a_tun_takes_jumbo_packets(pair: Pair, more: str) -> None:
    with vbackend_run(pair.folder, *pair.tun_and_tap(9000, more)) as run:
        unit = run.port("ta").unit
        assert unit is not None
        assert (unit.mtu, unit.header) == (9000, "pi" if more else "none")
        for ns, target in ((pair.a, B4), (pair.b, A4), (pair.a, B6), (pair.b, A6)):
            ping(ns, target, size=9000)


def test_a_guest_that_speaks_first_reaches_the_tun(pair: Pair) -> None:
    with vbackend_run(pair.folder, *pair.tun_and_tap()):
        ping(pair.b, A4, size=64)
        ping(pair.b, A6, size=64)


async def test_a_stream_guest_and_a_tap(pair: Pair) -> None:
    ports = (pair.taps()[0], f"stream:unix:{pair.folder}/guest")
    sizes = (14, 60, 1514)
    with (
        vbackend_run(pair.folder, *ports) as run,
        await FakeStreamPeer.connect(f"{pair.folder}/guest") as guest,
        RawPort(pair.a, "ta") as host,
    ):
        run.wait_connected("guest")
        to_host = [frame(BROADCAST, mac(2), b"up", size=size) for size in sizes]
        await guest.send_split(to_host, (3, 20, 90))
        assert host.receive(from_us, len(sizes)) == to_host
        to_guest = [frame(mac(2), mac(1), b"down", size=size) for size in sizes]
        host.send(*to_guest)
        assert await receive(guest, len(sizes)) == to_guest


@pytest.mark.parametrize("version", [4, 6])
async def test_checksums_are_complete_when_they_reach_a_guest(pair: Pair, version: int) -> None:
    """A kernel leaves checksums to the device where it may; QEMU's stream format has no place to say so."""
    family, target = (socket.AF_INET, B4) if version == 4 else (socket.AF_INET6, B6)
    ports = (pair.taps()[0], f"stream:unix:{pair.folder}/guest")
    with (
        vbackend_run(pair.folder, *ports) as run,
        await FakeStreamPeer.connect(f"{pair.folder}/guest") as guest,
        socket_in(pair.a, family, socket.SOCK_DGRAM) as sender,
    ):
        run.wait_connected("guest")
        pair.a.ip("neigh", "replace", target, "lladdr", mac(2).hex(":"), "dev", "ta", "nud", "permanent")
        sender.sendto(b"odd payload", (target, 4711))
        while (got := await guest.recv_frame())[:6] != mac(2):
            pass
    header = 20 if version == 4 else 40
    packet, datagram = got[14:], got[14 + header :]
    assert datagram[2:4] == struct.pack(">H", 4711)
    addresses = packet[12:20] if version == 4 else packet[8:40]
    assert datagram[6:8] != bytes(2)
    assert ones_sum(addresses + struct.pack(">HH", 17, len(datagram)) + datagram) == 0xFFFF


async def test_a_guest_sends_from_its_own_address_only(pair: Pair) -> None:
    ports = (pair.taps()[0], f"stream:unix:{pair.folder}/guest,mac={mac(2).hex(':')}")
    with (
        vbackend_run(pair.folder, *ports) as run,
        await FakeStreamPeer.connect(f"{pair.folder}/guest") as guest,
        RawPort(pair.a, "ta") as host,
    ):
        run.wait_connected("guest")
        spoofed = [frame(BROADCAST, source, b"me", size=60) for source in (mac(1), mac(3), BROADCAST)]
        own = numbered(BROADCAST, mac(2), 2)
        await guest.send_frames(own[0], *spoofed, own[1])
        wanted = {each[6:12] for each in (*own, *spoofed)}
        assert host.receive(lambda each: each[6:12] in wanted, 2) == own
        run.wait_for(lambda: run.port("guest").rx.drops == {"spoofed": 3}, "the spoofed are counted")


def test_taps_of_two_backends_on_one_bridge(pair: Pair) -> None:
    """The first makes the bridge, the second joins it; it goes with the last of them, whoever made it."""
    before, far_before = pair.a.state(), pair.b.state()
    bridge = f"netns={pair.a.name},bridge=br0"
    with namespace() as c:
        first = (f"tap:t1,{bridge},addr={A4}/24", f"tap:tb,netns={pair.b.name},addr={B4}/24")
        second = (f"tap:t2,{bridge}", f"tap:tc,netns={c.name},addr=10.0.0.3/24")
        with vbackend_run(pair.folder, *second, name="second") as later:
            with vbackend_run(pair.folder, *first, name="first"):
                links = pair.a.links()
                assert links["t1"]["master"] == links["t2"]["master"] == "br0"
                assert pair.a.addresses("br0") == {f"{A4}/24"}
                for ns, target in ((pair.b, "10.0.0.3"), (c, B4), (pair.b, A4), (c, A4), (pair.a, B4)):
                    ping(ns, target, size=1500)
            assert "br0" in pair.a.links(), later.log()
            assert "t1" not in pair.a.links()
    assert pair.a.state() == before
    assert pair.b.state() == far_before


async def receive(guest: FakeStreamPeer, count: int) -> list[bytes]:
    """The next frames of the test's own; the kernel's chatter is passed over."""
    found: list[bytes] = []
    while len(found) < count:
        if from_us(got := await guest.recv_frame()):
            found.append(got)
    return found


def ones_sum(data: bytes) -> int:
    """RFC 1071, over whole 16-bit words."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
