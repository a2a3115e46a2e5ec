"""Answers pings for the whole network behind a tun unit: `python unit_echo.py PATH`. Standard library only.

Of `vbackend run ... unit:PATH,addr=10.7.0.1,peer=10.7.0.2,header=null`: one message is one IPv4 or IPv6 packet behind
its address family, in both directions. A line at PATH.errors tells of each write that was refused.
"""

import select
import socket
import sys

__all__ = ["answer", "main"]


def answer(ip: bytes) -> bytes | None:
    """The reply to an IPv4 echo request (RFC 792), its checksum updated (RFC 1624); None: it is something else."""
    head = (ip[0] & 15) * 4 if ip else 0
    if len(ip) < 20 or ip[0] >> 4 != 4 or ip[9] != 1 or len(ip) < head + 8 or ip[head] != 8:
        return None
    total = int.from_bytes(ip[head + 2 : head + 4], "big") + 0x800
    checksum = (total + (total >> 16) & 0xFFFF).to_bytes(2, "big")
    return (
        ip[:12]
        + ip[16:20]
        + ip[12:16]
        + ip[20:head]
        + b"\0"
        + ip[head + 1 : head + 2]
        + checksum
        + ip[head + 4 :]
    )


def main(path: str) -> None:
    """Serve until the unit goes."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as unit,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as errors,
    ):
        unit.connect(path)
        errors.connect(f"{path}.errors")
        watched = [unit, errors]
        while True:
            readable, _, _ = select.select(watched, [], [])
            if errors in readable:
                line = errors.recv(200)  # "NUMBER ERRNO TEXT": which write it was, and why
                print("refused:", line.decode().strip(), file=sys.stderr, flush=True)
                watched = [unit, errors] if line else [unit]
            if unit in readable:
                message = unit.recv(4 + 65_536)
                if not message:
                    return  # the end: the unit is gone
                if reply := answer(message[4:]):
                    unit.send(message[:4] + reply)


if __name__ == "__main__":
    main(sys.argv[1])
