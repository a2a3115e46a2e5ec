"""Stateless DHCPv6 (RFC 8415 6.1): name servers and domains for those whose addresses come from advertisements. Pure.

Only information requests are answered, as section 6.1 has a server that gives no addresses. The server's DUID is its
link-layer address (section 11.4).
"""

from ipaddress import IPv6Address
from typing import Final

from vbackend.services.ra import encode_domains
from vbackend.services.reasons import Drop, WireError

__all__ = ["ALL_SERVERS", "SERVER_PORT6", "Dhcp6Server"]

ALL_SERVERS: Final = IPv6Address("ff02::1:2")  # All_DHCP_Relay_Agents_and_Servers
SERVER_PORT6: Final = 547

_REPLY: Final = 7
_INFORMATION_REQUEST: Final = 11
_STATEFUL: Final = frozenset(
    {1, 3, 4, 5, 6, 8, 9}
)  # solicit, request, confirm, renew, rebind, release, decline
_CLIENT_ID: Final = 1
_SERVER_ID: Final = 2
_WANTED: Final = 6
_ONCE: Final = frozenset({_CLIENT_ID, _SERVER_ID, _WANTED})
_ADDRESS_OPTIONS: Final = frozenset({3, 4, 25})  # IA_NA, IA_TA, IA_PD
_DNS: Final = 23
_DOMAINS: Final = 24
_REFRESH: Final = 32
_LONGEST_DUID: Final = 130


class Dhcp6Server:
    """`refresh`: seconds after which clients ask again (section 21.23)."""

    def __init__(
        self, mac: bytes, dns: tuple[IPv6Address, ...], domains: tuple[str, ...], refresh: int = 3600
    ) -> None:
        self._duid = b"\x00\x03\x00\x01" + mac
        self._told = {_REFRESH: refresh.to_bytes(4)}
        if dns:
            self._told[_DNS] = b"".join(address.packed for address in dns)
        if domains:
            self._told[_DOMAINS] = encode_domains(domains)

    def handle(self, data: bytes, *, to_many: bool) -> bytes:
        """The reply to a message. `WireError`: there is none, and why."""
        if len(data) < 4:
            raise WireError(Drop.SHORT)
        if data[0] in _STATEFUL:
            raise WireError(Drop.DHCP6_STATEFUL)
        if data[0] != _INFORMATION_REQUEST or not to_many:  # section 16: not by unicast
            raise WireError(Drop.DHCP6_FORMAT)
        options = _options(data[4:])
        client, server = options.get(_CLIENT_ID), options.get(_SERVER_ID)
        wanted = options.get(_WANTED, b"")
        if _ADDRESS_OPTIONS & options.keys() or server not in (None, self._duid):  # section 16.12
            raise WireError(Drop.DHCP6_FORMAT)
        if len(wanted) % 2 or (client is not None and not 3 <= len(client) <= _LONGEST_DUID):
            raise WireError(Drop.DHCP6_FORMAT)
        codes = {int.from_bytes(wanted[at : at + 2]) for at in range(0, len(wanted), 2)}
        reply = bytes([_REPLY]) + data[1:4] + _option(_SERVER_ID, self._duid)
        if client is not None:
            reply += _option(_CLIENT_ID, client)
        return reply + b"".join(
            _option(code, value) for code, value in self._told.items() if code in codes or not codes
        )


def _option(code: int, value: bytes) -> bytes:
    return code.to_bytes(2) + len(value).to_bytes(2) + value


def _options(data: bytes) -> dict[int, bytes]:
    """The last of each; those that are looked at come once. Those of vendors may repeat (section 21.16, 21.17)."""
    found: dict[int, bytes] = {}
    while data:
        code, end = int.from_bytes(data[:2]), 4 + int.from_bytes(data[2:4])
        if len(data) < 4 or end > len(data) or code in _ONCE & found.keys():
            raise WireError(Drop.DHCP6_FORMAT)
        found[code], data = data[4:end], data[end:]
    return found
