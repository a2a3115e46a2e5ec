"""The frame that tells the switches around where a guest is now: what SEND_RARP asks for after a migration. Pure.

A request of the Reverse ARP (RFC 903) from the guest to all, padded to the least Ethernet has; as QEMU itself makes it
where it has the guest's frames in hand (net/announce.c, announce_self_create()).
"""

from typing import Final

# declares the layout that would be offsets and struct formats
from construct import Bytes, Const, Int8ub, Int16ub, Padding, Struct

__all__ = ["announcement"]

_ETH_P_RARP: Final = 0x8035
_ARPHRD_ETHER: Final = 1
_ETH_P_IP: Final = 0x0800
_REQUEST_REVERSE: Final = 3

_FRAME: Final = Struct(
    "destination" / Const(b"\xff" * 6),
    "source" / Bytes(6),
    "ethertype" / Const(_ETH_P_RARP, Int16ub),
    "hardware" / Const(_ARPHRD_ETHER, Int16ub),
    "protocol" / Const(_ETH_P_IP, Int16ub),
    "hardware_bytes" / Const(6, Int8ub),
    "protocol_bytes" / Const(4, Int8ub),
    "operation" / Const(_REQUEST_REVERSE, Int16ub),
    "sender" / Bytes(6),
    Padding(4),
    "target" / Bytes(6),
    Padding(4),
    Padding(18),
)


def announcement(mac: bytes) -> bytes:
    """The frame, 60 bytes, for a station with this address of 6 bytes."""
    frame: bytes = _FRAME.build({"source": mac, "sender": mac, "target": mac})
    return frame
