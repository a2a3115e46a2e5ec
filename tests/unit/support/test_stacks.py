"""The kernel joins the namespaces here, with a veth pair: what these helpers find is not vbackend's doing."""

import socket
from collections.abc import Iterator

import pytest

from tests.support.frames import BROADCAST, frame, mac, vlan_frame
from tests.support.netns import Namespace, namespace
from tests.support.stacks import RawPort, join_multicast, multicast_sender, ping, socket_in, transfer

pytestmark = pytest.mark.root


@pytest.fixture
def pair() -> Iterator[tuple[Namespace, Namespace]]:
    with namespace() as a, namespace() as b:
        a.ip("link", "add", "va", "type", "veth", "peer", "name", "vb", "netns", b.name)
        for ns, ifname, number in ((a, "va", 1), (b, "vb", 2)):
            ns.ip("link", "set", ifname, "up")
            ns.ip("address", "add", f"10.0.0.{number}/24", "dev", ifname)
            ns.ip("address", "add", f"fd00::{number}/64", "dev", ifname, "nodad")
        yield a, b


@pytest.mark.parametrize("target", ["10.0.0.2", "fd00::2"])
def test_ping_and_its_sizes(pair: tuple[Namespace, Namespace], target: str) -> None:
    ping(pair[0], target, size=1500)
    ping(pair[0], target, size=4000, fragment=True)
    with pytest.raises(AssertionError, match="1501 bytes"):
        ping(pair[0], target, size=1501, within_s=1)


def test_ping_without_an_answer(pair: tuple[Namespace, Namespace]) -> None:
    pair[0].ip("route", "add", "unreachable", "10.0.9.9")
    with pytest.raises(AssertionError, match="to 10"):
        ping(pair[0], "10.0.9.9", size=100, within_s=1)


@pytest.mark.parametrize("address", ["10.0.0.2", "fd00::2"])
def test_transfer(pair: tuple[Namespace, Namespace], address: str) -> None:
    transfer(*pair, address, bytes(range(256)) * 1000)


@pytest.mark.parametrize("group", ["224.5.6.7", "ff02::5:6:7"])
def test_multicast(pair: tuple[Namespace, Namespace], group: str) -> None:
    a, b = pair
    with join_multicast(b, group, "vb") as listener, multicast_sender(a, group, "va") as sender:
        sender.sendto(b"all", (group, listener.getsockname()[1]))
        assert listener.recv(100) == b"all"


def test_raw_frames_with_and_without_tags(pair: tuple[Namespace, Namespace]) -> None:
    a, b = pair
    frames = [
        frame(BROADCAST, mac(1), b"plain", size=60),
        vlan_frame(BROADCAST, mac(1), 5, b"tagged"),
        frame(BROADCAST, mac(1), b"\x00\x07\x88\xb5service", ethertype=0x88A8),
    ]
    with RawPort(a, "va") as left, RawPort(b, "vb") as right:
        left.send(*frames)
        assert right.receive(lambda each: each[6:12] == mac(1), 3) == frames


def test_sockets_are_of_the_namespace(pair: tuple[Namespace, Namespace]) -> None:
    with socket_in(pair[0], socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("10.0.0.1", 0))
    with (
        socket_in(pair[1], socket.AF_INET, socket.SOCK_DGRAM) as sock,
        pytest.raises(OSError, match="assign"),
    ):
        sock.bind(("10.0.0.1", 0))
