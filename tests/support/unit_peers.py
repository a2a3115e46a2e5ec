"""Both ends of a port with a tun unit: the program at its socket, and the guest on the switch.

`UnitPeer` is a `SOCK_SEQPACKET` client, `GuestStation` a guest's stack as far as it takes one: it has an address, says
so, and sends and receives packets. Nothing is checked or repaired; waiting has a deadline everywhere.
"""

import asyncio
import socket
from ipaddress import ip_address
from types import TracebackType
from typing import Final, Self

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether

from tests.support.frames import BROADCAST, frame
from tests.support.qemu_peers import within
from vbackend.ports.channel import Channel

__all__ = ["ETHERTYPES", "GuestStation", "UnitPeer", "packet"]

ETHERTYPES: Final = {4: 0x0800, 6: 0x86DD}
_ARP: Final = 0x0806


def packet(source: str, destination: str, payload: bytes = b"", *, port: int = 9) -> bytes:
    """A UDP datagram in IPv4 or IPv6, as the addresses are."""
    layer = IP if ip_address(source).version == 4 else IPv6
    return bytes(layer(src=source, dst=destination) / UDP(sport=port, dport=port) / payload)


class UnitPeer:
    """A client of `unit:PATH`, or of PATH.errors. Reads only when asked: not asking is a reader that stalls."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock: Final = sock

    @classmethod
    async def connect(cls, path: str) -> Self:
        """A path, or "@name"."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.connect("\0" + path[1:] if path.startswith("@") else path)
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    async def send(self, *messages: bytes) -> None:
        """One after the other, waiting for room."""
        for message in messages:
            await within(asyncio.get_running_loop().sock_sendall(self.sock, message), "send")

    def send_now(self, message: bytes) -> None:
        """Also an empty message, which asyncio does not send. BlockingIOError: there is no room."""
        self.sock.send(message)

    async def recv(self) -> bytes:
        """The next message. EOFError when there will be none."""
        try:
            message = await within(asyncio.get_running_loop().sock_recv(self.sock, 1 << 18), "receive")
        except ConnectionResetError:
            message = b""
        if not message:
            raise EOFError("the backend closed the connection")
        return message

    async def recv_all(self, count: int) -> list[bytes]:
        return [await self.recv() for _ in range(count)]

    def recv_ready(self) -> list[bytes]:
        """What is here now."""
        found = []
        try:
            while message := self.sock.recv(1 << 18):
                found.append(message)
        except BlockingIOError:
            pass
        return found

    async def expect_eof(self) -> list[bytes]:
        """Wait for the end; what came before it."""
        found = []
        try:
            while True:
                found.append(await self.recv())
        except EOFError:
            return found

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class GuestStation:
    """A guest behind a channel, with one IPv4 or IPv6 address. `unit`: the adapter's MAC."""

    def __init__(self, channel: Channel, mac: bytes, address: str, unit: bytes) -> None:
        self.channel: Final = channel
        self.mac: Final = mac
        self.address: Final = address
        self.unit: Final = unit

    async def announce(self) -> None:
        """A gratuitous ARP (RFC 5227 1.1): who listens knows the station now."""
        said = ARP(op="who-has", hwsrc=self.mac.hex(":"), psrc=self.address, pdst=self.address)
        await self.channel.send(frame(BROADCAST, self.mac, bytes(said), ethertype=_ARP))

    async def send(self, *packets: bytes) -> None:
        """Packets for the unit."""
        await self.channel.send_all([self.framed(each) for each in packets])

    def framed(self, ip: bytes) -> bytes:
        return frame(self.unit, self.mac, ip, ethertype=ETHERTYPES[ip[0] >> 4])

    async def recv(self) -> bytes:
        """The next packet for this guest; ARP and what is for others is passed over."""
        while True:
            got = await within(self.channel.recv(), "receive")
            assert got is not None, "the guest's port is gone"
            if got[:6] == self.mac and int.from_bytes(got[12:14], "big") in ETHERTYPES.values():
                return got[14:]

    async def resolve(self, address: str) -> str:
        """The MAC address that answers for an IPv4 address."""
        question = ARP(op="who-has", hwsrc=self.mac.hex(":"), psrc=self.address, pdst=address)
        await self.channel.send(frame(BROADCAST, self.mac, bytes(question), ethertype=_ARP))
        while True:
            got = await within(self.channel.recv(), f"who has {address}")
            assert got is not None, "the guest's port is gone"
            if got[:6] == self.mac and ARP in (answer := Ether(got)) and answer[ARP].op == 2:
                return str(answer[ARP].hwsrc)
