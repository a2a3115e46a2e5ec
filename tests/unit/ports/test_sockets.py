"""Resolving, tuning and describing sockets, on real ones."""

import os
import socket
from pathlib import Path

import pytest

from vbackend.errors import ConfigError
from vbackend.ports import sockets
from vbackend.ports.spec import TcpAddress, UnixAddress


async def test_numbers_resolve_to_themselves() -> None:
    found = await sockets.resolve(TcpAddress("127.0.0.1", 80), socket.SOCK_STREAM)
    assert found == (socket.AF_INET, ("127.0.0.1", 80))
    family, place = await sockets.resolve(TcpAddress("::1", 80), socket.SOCK_DGRAM)
    assert (family, place[:2]) == (socket.AF_INET6, ("::1", 80))


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 64 + ".invalid"])
async def test_an_unknown_name_is_the_callers_error(host: str) -> None:
    with pytest.raises(ConfigError, match=r"does not resolve: [^\[]*; give an IP address"):
        await sockets.resolve(TcpAddress(host, 80), socket.SOCK_STREAM)


def test_addresses_as_the_engine_takes_them() -> None:
    assert sockets.engine_address(UnixAddress("/a")) == "unix:/a"
    assert sockets.engine_address(UnixAddress("@a")) == "unix:@a"
    assert sockets.engine_address(("127.0.0.1", 1)) == "127.0.0.1:1"
    assert sockets.engine_address(("::1", 1, 0, 0)) == "[::1]:1"


def test_buffers_grow_and_never_shrink() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sockets.raise_buffers(ours, 1 << 20)
        grown = ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        most = int(Path("/proc/sys/net/core/wmem_max").read_text())
        assert grown >= min(1 << 20, most)
        sockets.raise_buffers(ours, 4096)
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == grown


def test_a_unix_peer_is_named_by_its_process() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sockets.tune_stream(ours)
        assert sockets.peer_text(ours).startswith(f"unix pid {os.getpid()} (")


def test_a_tcp_peer_is_named_by_its_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
        with theirs:
            sockets.tune_stream(ours)
            assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sockets.peer_text(ours) == f"127.0.0.1:{server.getsockname()[1]}"
            ours.close()
    with socket.socket() as nobody:
        assert sockets.peer_text(nobody) == "unknown"
