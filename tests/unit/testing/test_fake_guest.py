"""vbackend/testing/fake_guest.py: guests in Python at the ports of a real vbackend."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.frames import BROADCAST, frame, mac
from tests.support.run import vbackend_run
from vbackend.errors import ConfigError
from vbackend.testing.fake_guest import FakeGuest

A, B = mac(1), mac(2)
HELLO = frame(BROADCAST, A, b"hello", size=60)

Guests = Callable[..., FakeGuest]

PORTS = [
    ("stream:unix:{}", {}),
    ("stream:unix:{},dial", {}),
    ("vhost-user:{}", {}),
    ("vhost-user:{},dial", {"packed": True}),
]


@pytest.mark.parametrize(("port", "options"), PORTS)
def test_frames_cross_in_both_directions(
    port: str, options: dict[str, bool], fake_guest: Guests, tmp_path: Path
) -> None:
    mine, other = port.format(tmp_path / "a"), f"stream:unix:{tmp_path}/b"
    with vbackend_run(tmp_path, f"{mine},name=a", f"{other},name=b") as run:
        a, b = fake_guest(mine, **options), fake_guest(other)
        a.wait_connected()
        run.wait_connected("a", "b")
        for number in range(300):  # more than a ring has room for
            a.send(frame(BROADCAST, A, number.to_bytes(4), size=60))
            assert b.recv()[14:18] == number.to_bytes(4)
        b.send(long := frame(A, B, bytes(range(256)) * 5, size=1514))
        assert a.recv() == long
        a.close()
        b.close()


@pytest.fixture
def pair(fake_guest: Guests, tmp_path: Path) -> Iterator[tuple[FakeGuest, FakeGuest]]:
    """Two guests on one switch."""
    ports = [f"stream:unix:{tmp_path}/{name}" for name in "ab"]
    with vbackend_run(tmp_path, *ports) as run:
        made = fake_guest(ports[0]), fake_guest(ports[1])
        run.wait_connected("a", "b")
        yield made
        for guest in made:
            guest.close()


def test_a_frame_is_found_among_others_and_they_stay(pair: tuple[FakeGuest, FakeGuest]) -> None:
    a, b = pair
    for payload in (b"one", b"two", b"three"):
        a.send(frame(BROADCAST, A, payload))
    assert b.expect("ether[14] = 0x74 and ether[15] = 0x68")[14:] == b"three"
    assert b.recv()[14:] == b"one"
    assert b.expect("ether proto 0x88b5")[14:] == b"two"
    b.expect_none("ether proto 0x88b5", within=0.05)


def test_what_came_instead_is_told(pair: tuple[FakeGuest, FakeGuest]) -> None:
    a, b = pair
    a.send(HELLO)
    with pytest.raises(AssertionError, match=r"no 'arp' within 0.3 s; there is 52:54:00:00:00:01 > ff"):
        b.expect("arp", timeout=0.3)
    with pytest.raises(AssertionError, match="there is a frame of 'ether broadcast'"):
        b.expect_none("ether broadcast")
    with pytest.raises(AssertionError, match="there is nothing"):
        a.expect("arp", timeout=0.05)
    with pytest.raises(ConfigError, match="'no such thing'"):
        b.expect("no such thing")


def test_a_flood_does_not_hold_up_a_deadline(tmp_path: Path) -> None:
    flood = (len(HELLO).to_bytes(4) + HELLO) * 500

    def send() -> None:
        with listener, listener.accept()[0] as peer, contextlib.suppress(ConnectionError):
            while time.monotonic() < until:
                peer.sendall(flood)

    listener = socket.create_server(f"{tmp_path}/a", family=socket.AF_UNIX)
    until = time.monotonic() + 5
    sender = threading.Thread(target=send)
    sender.start()
    with FakeGuest(f"stream:unix:{tmp_path}/a") as guest:
        with pytest.raises(AssertionError, match=r"no 'arp' within 0.1 s"):
            guest.expect("arp", timeout=0.1)
        guest.expect_none("arp", within=0.1)
        assert time.monotonic() < until
    sender.join()


def test_an_end_is_noticed(fake_guest: Guests, tmp_path: Path) -> None:
    ports = [f"stream:unix:{tmp_path}/a", f"vhost-user:{tmp_path}/b"]
    with vbackend_run(tmp_path, *ports):
        guests = [fake_guest(port) for port in ports]
    for guest in guests:
        with pytest.raises(ConnectionError):
            guest.recv()
    with pytest.raises(ConnectionError):
        guests[1].send(HELLO)
    guests[0].close()
    guests[0].close()
    with pytest.raises(ConnectionError, match="it is closed"):
        guests[0].recv()


def test_it_waits_until_somebody_listens(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="nobody listens there"):
        FakeGuest(f"stream:unix:{tmp_path}/nobody", timeout=0.1)
    assert time.monotonic() - started >= 0.1
    with pytest.raises(TimeoutError, match="nobody listens there"):
        FakeGuest("stream:tcp:127.0.0.1:1", timeout=0.1)


@pytest.mark.parametrize("port", ["stream:unix:{},dial", "stream:tcp:127.0.0.1:47113,dial"])
def test_it_listens_where_vbackend_dials(port: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    with FakeGuest(port.format(path)) as guest, pytest.raises(TimeoutError, match="vbackend did not dial"):
        guest.wait_connected(timeout=0.05)
    assert not path.exists()


@pytest.mark.parametrize("port", ["tap:tap0", "unit:/tmp/u"])
def test_ports_without_guests(port: str) -> None:
    with pytest.raises(ConfigError, match="neither a stream nor a vhost-user port"):
        FakeGuest(port)


def test_frames_may_be_anything_with_bytes(pair: tuple[FakeGuest, FakeGuest]) -> None:
    class Made:
        def __bytes__(self) -> bytes:
            return HELLO

    a, b = pair
    a.send(Made())
    assert b.recv() == HELLO
