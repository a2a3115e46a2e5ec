"""Why a session ended, in words.

Pure. The engine reports a reason and a number; this turns them into the line that is logged and shown. A peer
that speaks another protocol is known by its first four bytes, which were taken for a stream's length field.
"""

import errno
import os
from typing import Final, assert_never

from vbackend.dataplane import EndReason

__all__ = ["MAX_FRAME", "end_text"]

MAX_FRAME: Final = 69_632  # QEMU's NET_BUFSIZE, 4096 + 65536 (include/net/net.h)

_DEVICE_GONE: Final = frozenset(
    {errno.EFAULT, errno.EBADFD, errno.ENODEV}
)  # reading a tun/tap that was deleted


def end_text(reason: EndReason, value: int) -> str:
    """One line. `value`: eof: bytes of a frame cut off; oversize: the announced length; error: errno."""
    match reason:
        case "eof":
            cut = f" in the middle of a frame, {value} bytes into it" if value else ""
            return f"the peer closed the connection{cut}"
        case "detached":
            return "detached"
        case "oversize":
            return f"frame length {value} is above {MAX_FRAME}: {_foreign_protocol(value)}"
        case "memory":
            return "the file behind the guest's memory was cut short"
        case "error":
            return _error_text(value)
        case _:
            assert_never(reason)


def _error_text(number: int) -> str:
    if number in _DEVICE_GONE:
        return f"the device is gone ({os.strerror(number)})"
    return os.strerror(number) if number else "unknown error"


def _foreign_protocol(length: int) -> str:
    first = length.to_bytes(4, "big") if 0 <= length < 1 << 32 else b""
    if first[:2] == b"\x16\x03":
        return "the peer sent a TLS handshake, not QEMU's stream format"
    if first and all(0x20 <= byte < 0x7F or byte in b"\r\n\t" for byte in first):
        shown = first.decode("ascii").encode("unicode_escape").decode("ascii")
        return f"the peer sent '{shown}', not QEMU's stream format"
    return "the peer lost the frame boundaries, or does not speak QEMU's stream format"
