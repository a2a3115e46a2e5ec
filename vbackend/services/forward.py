"""Asks the host's name servers what the lab's does not know: UDP, one socket for each query, so that the kernel gives
each a port of its own; identifiers are random, and answers checked (RFC 5452).

Rule: at most `most` queries wait at once, each for a bounded time. Truncated answers are passed on as they are: who
asked could not take more by UDP either.
"""

import asyncio
import secrets
import socket
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Final

from vbackend.services.config import Server
from vbackend.services.dns import DNS_PORT, Forward, fit, valid_answer
from vbackend.services.reasons import Drop, WireError

__all__ = ["RESOLV_CONF", "Forwarder", "MakeSocket", "parse_resolv_conf"]

RESOLV_CONF: Final = "/etc/resolv.conf"
_LONGEST_MESSAGE: Final = 65535
_MOST_SERVERS: Final = 3  # as resolv.conf(5) has it

MakeSocket = Callable[[int], socket.socket]


def parse_resolv_conf(text: str) -> tuple[Server, ...]:
    """Its nameserver lines, at most three; other lines and what is no address are skipped."""
    found: list[Server] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                found.append((ip_address(words[1]), DNS_PORT))
            except ValueError:
                continue
    return tuple(found[:_MOST_SERVERS])


def _udp_socket(family: int) -> socket.socket:
    return socket.socket(family, socket.SOCK_DGRAM)


class Forwarder:
    """`make_socket`: a UDP socket of an address family, where the name servers can be reached from; a backend in a
    network namespace of its own has to get it from outside. `patience`: seconds for each server."""

    def __init__(
        self,
        servers: Sequence[Server],
        make_socket: MakeSocket | None = None,
        *,
        patience: float = 2.0,
        most: int = 64,
    ) -> None:
        self._servers = tuple(servers)
        self._make_socket = make_socket or _udp_socket
        self._patience = patience
        self._most = most
        self.waiting = 0

    def check_room(self) -> None:
        """`WireError`: too many wait already."""
        if self.waiting >= self._most:
            raise WireError(Drop.DNS_BUSY)

    async def ask(self, forward: Forward) -> bytes | None:
        """The first server's answer, fit for the client that asked; None: no server has one."""
        self.waiting += 1
        try:
            for server in self._servers:
                try:
                    async with asyncio.timeout(self._patience):
                        return await self._ask_one(forward, server)
                except OSError:  # TimeoutError is one too; the next one may be better
                    continue
            return None
        finally:
            self.waiting -= 1

    async def _ask_one(self, forward: Forward, server: Server) -> bytes:
        loop = asyncio.get_running_loop()
        number = secrets.token_bytes(2)
        address, port = server
        with self._make_socket(socket.AF_INET if address.version == 4 else socket.AF_INET6) as sock:
            sock.setblocking(False)
            sock.connect((str(address), port))  # the kernel then lets only this server's answers in
            await loop.sock_sendall(sock, number + forward.wire[2:])
            while True:
                answer = await loop.sock_recv(sock, _LONGEST_MESSAGE)
                ours = forward.wire[:2] + answer[2:]
                if answer[:2] == number and valid_answer(forward.query, ours):
                    return fit(forward.query, ours)
                await asyncio.sleep(0)  # sock_recv has not waited, and the time limit needs a turn too
