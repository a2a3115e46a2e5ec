"""Why a station did not answer a frame. Every frame that gets no answer is counted under one of these."""

from enum import StrEnum

from vbackend.errors import PeerError

__all__ = ["Drop", "WireError"]


class Drop(StrEnum):
    SHORT = "short"  # fewer bytes than its headers say
    NOT_FOR_US = "not-for-us"  # flooded, or another's address
    ETHERTYPE = "ethertype"  # neither ARP, IPv4 nor IPv6
    ARP = "arp"  # no ARP for IPv4 over Ethernet, or not a request
    IP_HEADER = "ip-header"  # version, lengths or header checksum are wrong
    BAD_SOURCE = "bad-source"  # from an address nobody can have
    FRAGMENT = "fragment"  # no service here has messages that need fragments
    PROTOCOL = "protocol"  # neither UDP nor ICMP; TCP ends here too
    CHECKSUM = "checksum"  # of UDP, ICMP or ICMPv6
    UDP_LENGTH = "udp-length"
    NO_PORT = "no-port"  # UDP to a port that nobody serves, sent to many
    ICMP_LIMIT = "icmp-limit"  # it would have got an ICMP error, but too many others got one
    ICMP_TYPE = "icmp-type"  # nothing that a station answers
    NDP = "ndp"  # neighbour discovery that RFC 4861 has discarded
    DHCP_FORMAT = "dhcp-format"
    DHCP_RELAYED = "dhcp-relayed"  # came through a relay agent; only this segment is served
    DHCP_OTHER_SERVER = "dhcp-other-server"  # the client chose another server
    DHCP_UNKNOWN_CLIENT = "dhcp-unknown-client"  # asks for an address that this server never gave it
    DHCP_NO_ADDRESS = "dhcp-no-address"  # the range is used up
    DHCP_TYPE = "dhcp-type"  # a message that only servers send, or none
    DHCP6_FORMAT = "dhcp6-format"
    DHCP6_STATEFUL = "dhcp6-stateful"  # asks for addresses; there is only stateless service
    DNS_FORMAT = "dns-format"  # not a query at all
    DNS_BUSY = "dns-busy"  # too many queries wait for the host's name servers


class WireError(PeerError):
    """A frame or message that is dropped, and why."""

    def __init__(self, reason: Drop, text: str = "") -> None:
        super().__init__(f"{reason}: {text}" if text else str(reason))
        self.reason = reason
