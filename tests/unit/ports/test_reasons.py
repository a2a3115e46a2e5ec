"""Every reason a session can end for, in words."""

import errno

import pytest

from vbackend.dataplane import EndReason
from vbackend.ports.reasons import end_text

TEXTS: list[tuple[EndReason, int, str]] = [
    ("eof", 0, "the peer closed the connection"),
    ("eof", 7, "the peer closed the connection in the middle of a frame, 7 bytes into it"),
    ("detached", 0, "detached"),
    ("error", errno.ECONNRESET, "Connection reset by peer"),
    ("error", errno.EFAULT, "the device is gone (Bad address)"),
    ("error", 0, "unknown error"),
    ("memory", 0, "the file behind the guest's memory was cut short"),
    (
        "oversize",
        1195725856,
        "frame length 1195725856 is above 69632: the peer sent 'GET ', not QEMU's stream format",
    ),
    ("oversize", int.from_bytes(b"SSH-"), "above 69632: the peer sent 'SSH-'"),
    ("oversize", int.from_bytes(b"\r\nQU"), r"the peer sent '\r\nQU'"),
    ("oversize", 0x16030102, "the peer sent a TLS handshake"),
    ("oversize", 69633, "69633 is above 69632: the peer lost the frame boundaries"),
    ("oversize", 0xFFFFFFFF, "the peer lost the frame boundaries"),
]


@pytest.mark.parametrize(("reason", "value", "words"), TEXTS)
def test_an_end_in_words(reason: EndReason, value: int, words: str) -> None:
    text = end_text(reason, value)
    assert words in text
    assert len(text.splitlines()) == 1
