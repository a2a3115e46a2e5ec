"""Datagram ports of `vbackend run` with kernels at both ends: Unix paths, UDP, and multicast between backends.

Sockets are in a namespace of their own, so that ports are never taken. Every run ends with the accounts of all
its ports checked (tests/support/run.py).
"""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.frames import BROADCAST, frame, mac, numbered
from tests.support.netns import Namespace, namespace, netns
from tests.support.qemu_peers import FakeDgramPeer, FakeStreamPeer
from tests.support.run import Run, vbackend_run
from tests.support.stacks import RawPort, ping, socket_in, transfer

__all__ = ["netns"]

pytestmark = pytest.mark.root

HOST, GUEST = mac(1), mac(2)
SIZES = (14, 60, 1514, 9014)
GROUP = ("230.4.5.6", 4711)
BULK = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
def wires(netns: Namespace) -> Iterator[Namespace]:
    """Where vbackend's sockets are; the taps are elsewhere."""
    with namespace() as ns:
        assert ns.name != netns.name
        yield ns


def peer_in(ns: Namespace, family: int, local: object, remote: object) -> FakeDgramPeer:
    sock = socket_in(ns, family, socket.SOCK_DGRAM)
    try:
        sock.bind(local)  # type: ignore[arg-type]
    except BaseException:
        sock.close()
        raise
    return FakeDgramPeer(sock, remote)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["unix", "udp", "udp6"])
async def test_a_datagram_guest_and_a_tap(
    netns: Namespace, wires: Namespace, tmp_path: Path, kind: str
) -> None:
    """Whole frames both ways; what a stranger sends is counted, and so is what is no frame."""
    family, where, ours, theirs, elsewhere = {
        "unix": (
            socket.AF_UNIX,
            f"unix:{tmp_path}/ours:{tmp_path}/theirs",
            f"{tmp_path}/ours",
            f"{tmp_path}/theirs",
            f"{tmp_path}/stranger",
        ),
        "udp": (
            socket.AF_INET,
            "udp:127.0.0.1:1001:127.0.0.1:1002",
            ("127.0.0.1", 1001),
            ("127.0.0.1", 1002),
            ("127.0.0.1", 1003),
        ),
        "udp6": (socket.AF_INET6, "udp:[::1]:1001:[::1]:1002", ("::1", 1001), ("::1", 1002), ("::1", 1003)),
    }[kind]
    ports = (f"tap:t0,netns={netns.name},mtu=9000", f"dgram:{where},name=guest")
    with (
        vbackend_run(tmp_path, *ports, prefix=wires.command()) as run,
        peer_in(wires, family, theirs, ours) as guest,
        peer_in(wires, family, elsewhere, ours) as stranger,
        RawPort(netns, "t0") as host,
    ):
        await stranger.send(frame(BROADCAST, mac(9), b"forged"))
        await guest.send(b"")
        await guest.send(b"no frame")
        up = [frame(BROADCAST, GUEST, size=size) for size in SIZES]
        for each in up:
            await guest.send(each)
        assert host.receive(lambda each: each[6:12] in (GUEST, mac(9)), len(up)) == up
        down = [frame(GUEST, HOST, size=size) for size in SIZES]
        host.send(*down)
        got: list[bytes] = []
        while len(got) < len(down):
            each = await guest.recv()
            got += [each] if each[6:12] == HOST else []
        assert got == down
        run.wait_for(
            lambda: run.port("guest").rx.drops == {"sender": 1, "runt": 2}, "the strangers are counted"
        )
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("kind", ["unix", "udp", "mcast"])
def test_two_backends_join_their_taps(netns: Namespace, wires: Namespace, tmp_path: Path, kind: str) -> None:
    here, there = {
        "unix": (f"unix:{tmp_path}/x:{tmp_path}/y", f"unix:{tmp_path}/y:{tmp_path}/x"),
        "udp": ("udp:127.0.0.1:1001:127.0.0.1:1002", "udp:127.0.0.1:1002:127.0.0.1:1001"),
        "mcast": (("mcast:{}:{},local=127.0.0.1".format(*GROUP),) * 2),
    }[kind]
    with namespace() as far:
        ends = (
            (f"tap:t0,netns={netns.name},addr=10.0.0.1/24,addr=fd00::1/64,mtu=9000", f"dgram:{here}"),
            (f"tap:t0,netns={far.name},addr=10.0.0.2/24,addr=fd00::2/64,mtu=9000", f"dgram:{there}"),
        )
        with (
            vbackend_run(tmp_path, *ends[0], name="here", prefix=wires.command()),
            vbackend_run(tmp_path, *ends[1], name="there", prefix=wires.command()),
        ):
            for size in (64, 1500, 9000):
                ping(netns, "10.0.0.2", size=size)
                ping(far, "fd00::1", size=size)
            transfer(netns, far, "10.0.0.2", BULK)
            transfer(far, netns, "fd00::1", BULK)


async def test_a_multicast_group_has_no_echo(netns: Namespace, tmp_path: Path) -> None:
    """Every frame crosses once: nobody hears himself, and what came from the group does not go back to it."""
    where = "dgram:mcast:{}:{},local=127.0.0.1,name=group".format(*GROUP)
    with (
        vbackend_run(tmp_path, f"stream:unix:{tmp_path}/a", where, name="a", prefix=netns.command()) as a,
        vbackend_run(tmp_path, f"stream:unix:{tmp_path}/b", where, name="b", prefix=netns.command()) as b,
        await FakeStreamPeer.connect(f"{tmp_path}/a") as left,
        await FakeStreamPeer.connect(f"{tmp_path}/b") as right,
        member(netns) as third,
    ):
        a.wait_connected("a", "group")
        b.wait_connected("b", "group")
        there, back = numbered(BROADCAST, mac(1), 50), numbered(BROADCAST, mac(2), 50)
        await left.send_frames(*there)
        assert await right.recv_frames(50) == there
        await right.send_frames(*back)
        assert await left.recv_frames(50) == back
        assert [await third.recv() for _ in range(100)] == there + back
        last = frame(BROADCAST, mac(3), b"from a QEMU in the group", size=60)
        await third.send(last)
        assert [await peer.recv_frame() for peer in (left, right)] == [last, last]
        assert await third.recv() == last, "its own, as for QEMU; the next would be an echo"
        for run in (a, b):
            assert heard(run) == 51
            run.wait_for(lambda run=run: run.port("group").tx.frames_out == 50, "all of its own sent")  # type: ignore[misc]
            assert not run.port("group").tx.drops


def heard(run: Run) -> int:
    """Frames the group gave to the switch."""
    return run.port("group").rx.frames_out


def member(ns: Namespace) -> FakeDgramPeer:
    """A member as QEMU is one: a single socket for both directions, whose frames loop back."""
    sock = socket_in(ns, socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(GROUP)
        joining = socket.inet_aton(GROUP[0]) + socket.inet_aton("127.0.0.1")
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joining)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
    except BaseException:
        sock.close()
        raise
    return FakeDgramPeer(sock, GROUP)
