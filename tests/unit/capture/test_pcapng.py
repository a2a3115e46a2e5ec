"""pcapng's frame around packet blocks, byte by byte and as an independent reader sees it."""

import pytest

from tests.support.pcapng import parse
from vbackend.capture.pcapng import (
    Blocks,
    Interface,
    LinkType,
    Statistics,
    Tally,
    description,
    head,
    section,
    statistics,
)
from vbackend.errors import PeerError

PORTS = [Interface("a", "tap:tap0"), Interface("unit", "unit:/tmp/u", LinkType.NULL)]


def test_the_section_header_byte_by_byte() -> None:
    assert head("vb", [], 99, None) == bytes.fromhex(
        "0a0d0d0a 28000000 4d3c2b1a 01000000 ffffffffffffffff 04000200 76620000 00000000 28000000"
    )


def test_a_description_byte_by_byte() -> None:
    assert description(Interface("a → b", "link x"), 99, "ip") == bytes.fromhex(
        "01000000 40000000 0100 0000 63000000"
        "0200 0700 6120e28692206200 0300 0600 6c696e6b20780000 0900 0100 09000000 0b00 0300 00697000"
        "00000000 40000000"
    )


def test_a_description_is_utf_8_whatever_a_file_is_called() -> None:
    found = parse(section("vb") + description(Interface("a", "stream:unix:/tmp/\udcff"), 99, None))
    assert found.interfaces[0].description == "stream:unix:/tmp/\\udcff"


def test_interfaces_may_come_at_any_time() -> None:
    """Their packets have the number that they are described as."""

    def packet(number: int) -> bytes:
        words = (6, 32, number, 0, 0, 0, 0, 32)
        return (
            b"".join(word.to_bytes(4, "little") for word in words[:7])
            + bytes(4)
            + words[7].to_bytes(4, "little")
        )

    one, two = (description(port, 77, None) for port in PORTS)
    packets = packet(0).replace((32).to_bytes(4, "little"), (36).to_bytes(4, "little"))
    late = packet(1).replace((32).to_bytes(4, "little"), (36).to_bytes(4, "little"))
    capture = parse(section("x") + one + packets + two + late)
    assert [(found.interface, found.direction) for found in capture.packets] == [("a", ""), ("unit", "")]


@pytest.mark.parametrize("expression", [None, "icmp or arp"])
def test_a_reader_sees_what_was_said(expression: str | None) -> None:
    last = statistics(
        [Statistics(9, 5, 2), Statistics(0, 0, 0)],
        started_ns=1,
        ended_ns=1 << 40,
        filtered=expression is not None,
    )
    capture = parse(head("vbackend 1", PORTS, 77, expression) + last)
    assert capture.application == "vbackend 1"
    a, unit = capture.interfaces
    assert (a.name, a.description, a.link_type, a.snaplen, a.filter) == ("a", "tap:tap0", 1, 77, expression)
    assert (unit.name, unit.link_type) == ("unit", 0)
    accept = {} if expression is None else {"accept": 7}
    assert capture.statistics["a"] == {"recv": 9, "drop": 2, "delivered": 5, **accept}


def test_blocks_come_out_whole_however_they_are_cut() -> None:
    data = head("x", PORTS, 1, "ip") + statistics(
        [Statistics(3, 2, 1)], started_ns=0, ended_ns=1, filtered=True
    )
    for size in (1, 7, 50, len(data)):
        blocks, out = Blocks(), b""
        for at in range(0, len(data), size):
            whole = blocks.feed(data[at : at + size])
            if whole:
                out += whole
                parse(out)
        assert out == data


@pytest.mark.parametrize("length", [0, 11, 13, 1 << 21, 0xFFFF_FFFC])
def test_a_length_that_cannot_be_is_refused(length: int) -> None:
    with pytest.raises(PeerError, match=f"block of {length} bytes"):
        Blocks().feed(b"\6\0\0\0" + length.to_bytes(4, "little") + bytes(8))


def test_the_tally_counts_packets_and_losses() -> None:
    tally = Tally()
    packet = b"\6\0\0\0" + (32).to_bytes(4, "little") + bytes(20) + (32).to_bytes(4, "little")
    tally.feed(head("x", PORTS, 1, None) + packet + packet)
    tally.feed(
        statistics([Statistics(3, 1, 1), Statistics(9, 1, 4)], started_ns=0, ended_ns=1, filtered=False)
    )
    assert (tally.packets, tally.lost) == (2, 5)
