"""Information requests that scapy makes, replies as scapy reads them, and everything that stays unanswered."""

from ipaddress import IPv6Address

import pytest
from scapy.layers.dhcp6 import (
    DUID_LL,
    DHCP6_InfoRequest,
    DHCP6_RelayForward,
    DHCP6_Reply,
    DHCP6_Request,
    DHCP6_Solicit,
    DHCP6OptClientId,
    DHCP6OptDNSDomains,
    DHCP6OptDNSServers,
    DHCP6OptIA_NA,
    DHCP6OptInfoRefreshTime,
    DHCP6OptOptReq,
    DHCP6OptServerId,
    DHCP6OptVendorClass,
    DHCP6OptVendorSpecificInfo,
)
from scapy.packet import Packet

from vbackend.services.dhcp6 import Dhcp6Server
from vbackend.services.reasons import Drop, WireError

MAC = bytes.fromhex("020000000001")
SERVER = Dhcp6Server(MAC, (IPv6Address("fd00::1"),), ("lab",))
CLIENT = DHCP6OptClientId(duid=DUID_LL(lladdr="52:54:00:00:00:07"))
ASK = DHCP6_InfoRequest(trid=0x123456)


def reply(message: Packet, server: Dhcp6Server = SERVER) -> Packet:
    return DHCP6_Reply(server.handle(bytes(message), to_many=True))


def test_all_that_is_asked_for() -> None:
    found = reply(ASK / CLIENT / DHCP6OptOptReq(reqopts=[23, 24, 32]))
    assert (found.msgtype, found.trid) == (7, 0x123456)
    assert bytes(found[DHCP6OptServerId].duid) == b"\0\3\0\1" + MAC
    assert found[DHCP6OptClientId].duid.lladdr == "52:54:00:00:00:07"
    assert found[DHCP6OptDNSServers].dnsservers == ["fd00::1"]
    assert found[DHCP6OptDNSDomains].dnsdomains == ["lab."]
    assert found[DHCP6OptInfoRefreshTime].reftime == 3600


@pytest.mark.parametrize(("wanted", "domains"), [([23], False), ([24], True), ([], True)])
def test_only_what_is_asked_for(wanted: list[int], domains: bool) -> None:
    found = reply(ASK / (DHCP6OptOptReq(reqopts=wanted) if wanted else CLIENT))
    assert (DHCP6OptDNSDomains in found) is domains
    assert (DHCP6OptClientId in found) is not bool(wanted), "a client may be anonymous"


def test_nothing_to_tell() -> None:
    found = reply(ASK / CLIENT, Dhcp6Server(MAC, (), ()))
    assert DHCP6OptDNSServers not in found
    assert DHCP6OptDNSDomains not in found


def test_a_server_that_is_named_is_us() -> None:
    ours, other = (DHCP6OptServerId(duid=DUID_LL(lladdr=mac)) for mac in (MAC.hex(":"), "02:00:00:00:00:02"))
    assert reply(ASK / CLIENT / ours).msgtype == 7
    with pytest.raises(WireError):
        reply(ASK / CLIENT / other)


def test_options_of_more_than_one_vendor() -> None:
    """RFC 8415 21.16, 21.17: vendor class and vendor options may come once for each enterprise."""
    vendors = (
        DHCP6OptVendorClass(enterprisenum=number) / DHCP6OptVendorSpecificInfo(enterprisenum=number)
        for number in (311, 9)
    )
    assert reply(ASK / CLIENT / next(vendors) / next(vendors)).msgtype == 7


@pytest.mark.parametrize(
    ("data", "to_many", "reason"),
    [
        (b"", True, Drop.SHORT),
        (bytes(DHCP6_Solicit() / CLIENT / DHCP6OptIA_NA()), True, Drop.DHCP6_STATEFUL),
        (bytes(DHCP6_Request() / CLIENT), True, Drop.DHCP6_STATEFUL),
        (bytes(DHCP6_RelayForward()), True, Drop.DHCP6_FORMAT),
        (bytes(DHCP6_Reply()), True, Drop.DHCP6_FORMAT),
        (bytes(ASK / CLIENT), False, Drop.DHCP6_FORMAT),
        (bytes(ASK / CLIENT / DHCP6OptIA_NA()), True, Drop.DHCP6_FORMAT),
        (bytes(ASK / CLIENT / CLIENT), True, Drop.DHCP6_FORMAT),
        (bytes(ASK / CLIENT)[:-1], True, Drop.DHCP6_FORMAT),
        (bytes(ASK) + b"\0\1\0", True, Drop.DHCP6_FORMAT),
        (bytes(ASK) + b"\0\1\0\2ab", True, Drop.DHCP6_FORMAT),  # a DUID of two bytes
        (bytes(ASK) + b"\0\6\0\1a", True, Drop.DHCP6_FORMAT),  # half an option code
    ],
)
def test_unanswered(data: bytes, to_many: bool, reason: Drop) -> None:
    with pytest.raises(WireError) as error:
        SERVER.handle(data, to_many=to_many)
    assert error.value.reason is reason
