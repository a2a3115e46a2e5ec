"""Asking name servers on loopback: good ones, silent ones, liars."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import cast

import dns.message
import pytest

from vbackend.services.config import Server
from vbackend.services.dns import Forward
from vbackend.services.forward import Forwarder, parse_resolv_conf
from vbackend.services.reasons import Drop, WireError

QUERY = dns.message.make_query("example.com", "A", id=4711)
ASKED = Forward(QUERY, QUERY.to_wire())
LOOPBACK = ip_address("127.0.0.1")


def test_resolv_conf() -> None:
    text = """
# nameserver 10.0.0.1
search lab
nameserver 10.0.0.2 # with a comment
nameserver
nameserver nonsense
\tnameserver fd00::1
nameserver fe80::1%eth0
nameserver 10.0.0.3
"""
    expected = ["10.0.0.2", "fd00::1", "fe80::1%eth0"]
    assert parse_resolv_conf(text) == tuple((ip_address(one), 53) for one in expected)
    assert parse_resolv_conf("") == ()


class Peer(asyncio.DatagramProtocol):
    """`say`: the datagrams that answer one."""

    def __init__(self, say: Callable[[bytes], list[bytes]]) -> None:
        self.say = say
        self.heard: list[bytes] = []
        self.ports: set[int] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.heard.append(data)
        self.ports.add(addr[1])
        for each in self.say(data):
            self.transport.sendto(each, addr)


@asynccontextmanager
async def peer(say: Callable[[bytes], list[bytes]]) -> AsyncIterator[tuple[Peer, Server]]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(lambda: Peer(say), local_addr=("127.0.0.1", 0))
    try:
        yield protocol, (LOOPBACK, transport.get_extra_info("sockname")[1])
    finally:
        transport.close()


def honest(data: bytes) -> list[bytes]:
    return [dns.message.make_response(dns.message.from_wire(data)).to_wire()]


def liar(data: bytes) -> list[bytes]:
    """Wrong identifier, a query, another question, nonsense; and then the truth."""
    right = honest(data)[0]
    other = dns.message.make_query("example.org", "A", id=int.from_bytes(data[:2]))
    return [
        bytes([right[0] ^ 1]) + right[1:],
        data,
        dns.message.make_response(other).to_wire(),
        right[:5],
        right,
    ]


@pytest.mark.parametrize("say", [honest, liar])
async def test_the_answer_has_the_clients_identifier(say: Callable[[bytes], list[bytes]]) -> None:
    async with peer(say) as (there, server):
        forwarder = Forwarder([server])
        answers = [await forwarder.ask(ASKED) for _ in range(5)]
        assert answers == [dns.message.make_response(QUERY).to_wire()] * 5
        assert all(data[2:] == ASKED.wire[2:] for data in there.heard)
        assert len({data[:2] for data in there.heard}) > 1, "identifiers are random"
        assert len(there.ports) > 1, "and so are ports"
        assert forwarder.waiting == 0


async def test_the_next_server_is_asked_when_one_is_silent_or_not_there() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = (LOOPBACK, closed.getsockname()[1])
    async with peer(lambda _: []) as (silent, first), peer(honest) as (_, last):
        assert await Forwarder([nobody, first, last], patience=0.05).ask(ASKED) is not None
        assert len(silent.heard) == 1
        assert await Forwarder([nobody, first], patience=0.05).ask(ASKED) is None
    assert await Forwarder([]).ask(ASKED) is None


async def test_only_so_many_wait_at_once() -> None:
    async with peer(lambda _: []) as (_, server):
        forwarder = Forwarder([server], most=2)
        tasks = [asyncio.create_task(forwarder.ask(ASKED)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(WireError) as error:
            forwarder.check_room()
        assert error.value.reason is Drop.DNS_BUSY
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        forwarder.check_room()


async def test_sockets_are_made_by_who_knows_where() -> None:
    made: list[int] = []

    def make(family: int) -> socket.socket:
        made.append(family)
        return socket.socket(family, socket.SOCK_DGRAM)

    async with peer(honest) as (_, server):
        assert await Forwarder([server], make).ask(ASKED) is not None
    assert made == [socket.AF_INET]


class Flood(socket.socket):
    """A name server that says the same wrong thing without a pause."""

    said = 0

    def recv(self, *_: object) -> bytes:
        self.said += 1
        assert self.said < 200_000, "nobody else had a turn"
        return b"nonsense"


async def test_a_server_that_never_pauses_does_not_stop_the_clock() -> None:
    forwarder = Forwarder([(LOOPBACK, 9)], lambda family: Flood(family, socket.SOCK_DGRAM), patience=0.05)
    async with asyncio.timeout(10):
        assert await forwarder.ask(ASKED) is None
