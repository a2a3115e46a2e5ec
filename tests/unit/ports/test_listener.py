"""The listening socket: files, addresses, errors, and running out of descriptors."""

import asyncio
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fds import open_fds
from tests.support.qemu_peers import FakeStreamPeer, eventually
from vbackend.errors import ConfigError
from vbackend.ports import listener
from vbackend.ports.listener import Listener
from vbackend.ports.spec import TcpAddress, UnixAddress


@pytest.fixture
def accepted() -> Iterator[list[tuple[socket.socket, str]]]:
    found: list[tuple[socket.socket, str]] = []
    yield found
    for sock, _ in found:
        sock.close()


def collect(found: list[tuple[socket.socket, str]]) -> listener.OnPeer:
    return lambda sock, peer: found.append((sock, peer))


async def test_a_unix_listener_makes_and_removes_its_file(
    tmp_path: Path, accepted: list[tuple[socket.socket, str]]
) -> None:
    path = tmp_path / "a.sock"
    found = await Listener.open(UnixAddress(str(path)), collect(accepted))
    assert (found.place, path.is_socket()) == (str(path), True)
    with await FakeStreamPeer.connect(str(path)):
        await eventually(lambda: accepted, "accepted")
    assert accepted[0][1].startswith(f"unix pid {os.getpid()}")
    found.close()
    found.close()
    assert not path.exists()


async def test_a_file_put_in_its_place_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    found = await Listener.open(UnixAddress(str(path)), collect([]))
    path.unlink()
    path.write_text("somebody else's")
    found.close()
    assert path.read_text() == "somebody else's"


async def test_an_abstract_name_and_tcp(accepted: list[tuple[socket.socket, str]]) -> None:
    name = f"@vbackend-test-{os.getpid()}"
    for address in (UnixAddress(name), TcpAddress("127.0.0.1", 0)):
        found = await Listener.open(address, collect(accepted))
        try:
            host, _, port = found.place.rpartition(":")
            with await FakeStreamPeer.connect((host, int(port)) if host else name):
                await eventually(lambda: accepted, "accepted")
        finally:
            found.close()
        accepted.pop()[0].close()


async def test_a_socket_of_messages(tmp_path: Path, accepted: list[tuple[socket.socket, str]]) -> None:
    path = str(tmp_path / "a.sock")
    found = await Listener.open(UnixAddress(path), collect(accepted), kind=socket.SOCK_SEQPACKET)
    try:
        with socket.socket(socket.AF_UNIX) as stream, pytest.raises(OSError, match="wrong type"):
            stream.connect(path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
            peer.connect(path)
            await eventually(lambda: accepted, "accepted")
            peer.send(b"one")
            peer.send(b"two")
            assert accepted[0][0].recv(100) == b"one"
        with pytest.raises(ConfigError, match=f"in use by process {os.getpid()}"):
            await Listener.open(UnixAddress(path), collect([]), kind=socket.SOCK_SEQPACKET)
    finally:
        found.close()
    assert not os.path.exists(path)  # noqa: PTH110


async def test_what_is_in_use_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = str(tmp_path / "a.sock")
    first = await Listener.open(UnixAddress(path), lambda sock, _: sock.close())
    tcp = await Listener.open(TcpAddress("127.0.0.1", 0), lambda sock, _: sock.close())
    try:
        with pytest.raises(ConfigError, match=f"in use by process {os.getpid()}"):
            await Listener.open(UnixAddress(path), collect([]))
        port = int(tcp.place.rpartition(":")[2])
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            await Listener.open(TcpAddress("127.0.0.1", port), collect([]))
    finally:
        first.close()
        tcp.close()


async def test_without_descriptors_it_rests_and_goes_on(
    tmp_path: Path, accepted: list[tuple[socket.socket, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "_REST_S", 0.05)
    found = await Listener.open(UnixAddress(str(tmp_path / "a.sock")), collect(accepted))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        with socket.socket(socket.AF_UNIX) as peer:
            highest = max(open_fds())
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
            try:
                peer.connect(found.place)
                await eventually(lambda: found._rest is not None, "it rests")
                assert not accepted
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            assert highest > 3
            await eventually(lambda: accepted, "accepted after the rest")
    finally:
        found.close()
        await asyncio.sleep(0)
