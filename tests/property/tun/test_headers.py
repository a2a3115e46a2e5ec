"""Link headers: what is written is read again; arbitrary bytes are read or refused, never anything else."""

import errno
from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from vbackend.tun.headers import ByteOrder, Decoded, Family, HeaderError, decode, encode
from vbackend.tun.vocabulary import HEADERS, SYSTEMS, Address, Header, System

headers = st.sampled_from(HEADERS)
systems = st.sampled_from(SYSTEMS)
orders = st.sampled_from(["little", "big"])
addresses = st.ip_addresses()
likely = st.sampled_from(
    [
        bytes.fromhex(start)
        for start in ("1002", "1c18", "02000000", "0000001e", "00000800", "45", "60", "0a00")
    ]
)


@given(headers, systems, orders, addresses, st.integers(0, 0xFFFF), st.binary(max_size=80))
def test_round_trip(
    header: Header, system: System, order: ByteOrder, destination: Address, flags: int, rest: bytes
) -> None:
    assert isinstance(destination, IPv4Address | IPv6Address)
    family = Family(destination.version)
    packet = bytes([family << 4]) + rest
    data = encode(
        header, packet, family=family, system=system, order=order, destination=destination, flags=flags
    )
    found = decode(header, data, system=system, order=order)
    assert found == Decoded(
        family,
        packet,
        destination if header == "sockaddr" else None,
        flags if header == "pi" else 0,
    )


@given(
    headers,
    systems,
    orders,
    st.binary(max_size=64) | st.builds(bytes.__add__, likely, st.binary(max_size=64)),
)
def test_any_bytes_are_read_or_refused(header: Header, system: System, order: ByteOrder, data: bytes) -> None:
    match _outcome(header, system, order, data):
        case HeaderError() as error:
            assert error.errno in (errno.EIO, errno.EAFNOSUPPORT)
            assert len(str(error).splitlines()) == 1
        case Decoded() as found:
            assert data.endswith(found.payload)


def _outcome(header: Header, system: System, order: ByteOrder, data: bytes) -> Decoded | HeaderError:
    try:
        return decode(header, data, system=system, order=order)
    except HeaderError as error:
        return error
