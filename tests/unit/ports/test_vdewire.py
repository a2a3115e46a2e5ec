"""Requests to a VDE switch and its answer, as a table."""

import pytest

from tests.support.vde_peers import address, request
from vbackend.errors import PeerError
from vbackend.ports.vdewire import Request, answer, parse_request

ABSTRACT = b"\0\0\0\x12\x34" + bytes(range(103))  # user-mode Linux leaves garbage behind what it means

GOOD = [
    (request(b"/a"), Request(b"/a", None, "fake")),
    (request(b"/a", description=b""), Request(b"/a", None, "")),
    (request(b"/a", description=b"plug\0rest"), Request(b"/a", None, "plug")),
    (request(b"/a", description=b"\x1b[1mbold\n\xff"), Request(b"/a", None, "?[1mbold??")),
    (request(b"/a", description=b"x" * 500), Request(b"/a", None, "x" * 128)),
    (request(b"/" + b"a" * 106), Request(b"/" + b"a" * 106, None, "fake")),
    (request(b"/a\0garbage"), Request(b"/a", None, "fake")),
    (request(b"/\xff"), Request(b"/\xff", None, "fake")),
    (request(ABSTRACT), Request(ABSTRACT, None, "fake")),
    (request(b"/a", port=7), Request(b"/a", 7, "fake")),
    (request(b"/a", port=0xFFFFFF), Request(b"/a", 0xFFFFFF, "fake")),
    (request(b"/a", kind=1), Request(b"/a", 0, "fake")),
    (request(b"/a", version=1), Request(b"/a", None, "fake")),
    (request(b"/a", version=1, kind=1), Request(b"/a", 0, "fake")),
]


@pytest.mark.parametrize(("data", "wanted"), GOOD)
def test_requests(data: bytes, wanted: Request) -> None:
    assert parse_request(data) == wanted


BAD = [
    (b"GET / HTTP/1.0", "it does not speak VDE's protocol: it begins with 47 45 54 20"),
    (b"\x00", "it does not speak VDE's protocol: it begins with 00"),
    (request(b"/a", magic=0xFEEDBEEF), "does not speak"),
    (request(b"/a", version=2), "it speaks version 2 of VDE's protocol; there are 1 and 3"),
    (request(b"/a", version=4), "it speaks version 4"),
    (request(b"/a", version=1, port=1), "it speaks version 256"),
    (request(b"/a", kind=2), "it asks for something of type 2"),
    (request(b"/a", family=2), "of address family 2; it has to be a Unix socket"),
    (request(b""), "has no name"),
    (request(b"a/b"), "is at 'a/b'; only absolute paths"),
    (request(b"/" + b"a" * 107), "has no end"),
]


@pytest.mark.parametrize(("data", "words"), BAD)
def test_mistakes(data: bytes, words: str) -> None:
    with pytest.raises(PeerError, match=r"^(it|its|the) ") as caught:
        parse_request(data)
    assert words in str(caught.value)


def test_the_answer() -> None:
    assert answer(b"/tmp/sw/001.5") == address(b"/tmp/sw/001.5")
    assert len(answer(b"")) == 110
