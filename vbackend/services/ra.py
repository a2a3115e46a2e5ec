"""Router advertisements (RFC 4861 6.2, RFC 8106): what they say, and when they are due. Pure.

A host that has an address gets its answer alone and at once; one that has none yet is answered to all, but not more
often than every three seconds. Times are of a clock that does not go back, in seconds.
"""

from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Final

import dns.name
from construct import Bytes, Int8ub, Int16ub, Int32ub, Struct

from vbackend.services.config import RaConfig, ra_interval
from vbackend.services.wire import Icmp, build_ndp_option

__all__ = ["ALL_ROUTERS", "Advertiser", "build_advertisement", "encode_domains"]

ALL_ROUTERS: Final = IPv6Address("ff02::2")
_ADVERTISEMENT: Final = 134
_OTHER_CONFIGURATION: Final = 0x40
_ON_LINK: Final = 0x80
_AUTONOMOUS: Final = 0x40
_SLAAC_BITS: Final = 64  # RFC 4862 5.5.3: an interface identifier has 64 bits, RFC 2464 4
_INITIAL: Final = 3  # RFC 4861 10: MAX_INITIAL_RTR_ADVERTISEMENTS, and how far apart at most
_INITIAL_INTERVAL_S: Final = 16.0
_LEAST_APART_S: Final = 3.0  # MIN_DELAY_BETWEEN_RAS
_ANSWER_DELAY_S: Final = 0.5  # MAX_RA_DELAY_TIME
_LEAST_INTERVAL: Final = 0.33  # MinRtrAdvInterval, of the longest

_BODY: Final = Struct(
    "hops" / Int8ub, "flags" / Int8ub, "lifetime" / Int16ub, "reachable" / Int32ub, "retransmit" / Int32ub
)
_PREFIX: Final = Struct(
    "length" / Int8ub,
    "flags" / Int8ub,
    "valid" / Int32ub,
    "preferred" / Int32ub,
    "reserved" / Int32ub,
    "prefix" / Bytes(16),
)
_DNS_HEAD: Final = Struct("reserved" / Int16ub, "lifetime" / Int32ub)


def build_advertisement(config: RaConfig, mac: bytes, *, final: bool = False) -> Icmp:
    """`config`: what is None in it is left out. `final`: this router and its name servers are no more."""
    lifetime = 0 if final else config.lifetime
    dns_lifetime = 0 if final else 3 * ra_interval(config)  # RFC 8106 5.1
    flags = _OTHER_CONFIGURATION if config.stateless else 0
    body = bytes(
        _BODY.build({"hops": 64, "flags": flags, "lifetime": lifetime, "reachable": 0, "retransmit": 0})
    )
    body += build_ndp_option(1, mac)
    if config.mtu is not None:
        body += build_ndp_option(5, bytes(2) + config.mtu.to_bytes(4))
    for prefix in config.prefixes or ():
        fields = {
            "length": prefix.prefixlen,
            "flags": _ON_LINK | (_AUTONOMOUS if prefix.prefixlen == _SLAAC_BITS else 0),
            "valid": config.valid,
            "preferred": config.preferred,
            "reserved": 0,
            "prefix": prefix.network_address.packed,
        }
        body += build_ndp_option(3, _PREFIX.build(fields))
    head = bytes(_DNS_HEAD.build({"reserved": 0, "lifetime": dns_lifetime}))
    if config.dns:
        body += build_ndp_option(25, head + b"".join(address.packed for address in config.dns))
    if config.domains:
        body += build_ndp_option(31, head + encode_domains(config.domains))
    return Icmp(_ADVERTISEMENT, 0, body)


def encode_domains(domains: tuple[str, ...]) -> bytes:
    """In DNS's encoding without compression (RFC 8106 5.2, RFC 8415 10)."""
    return b"".join(dns.name.from_text(domain).to_wire() or b"" for domain in domains)


class Advertiser:
    """When the next advertisement to all is due. `random`: 0 to 1, for each interval anew."""

    def __init__(self, interval: float, random: Callable[[], float], now: float) -> None:
        self._interval = interval
        self._random = random
        self._sent = 0
        self._last = now - _LEAST_APART_S
        self.due = now

    def sent(self, now: float) -> None:
        """One went to all."""
        self._sent += 1
        self._last = now
        shortest = max(_LEAST_APART_S, _LEAST_INTERVAL * self._interval)
        wait = shortest + self._random() * (self._interval - shortest)
        self.due = now + (wait if self._sent >= _INITIAL else min(wait, _INITIAL_INTERVAL_S))

    def solicited(self, source: IPv6Address, now: float) -> bool:
        """True: answer this host alone, now. Else the next one to all comes soon."""
        if not source.is_unspecified:
            return True
        soon = max(now + self._random() * _ANSWER_DELAY_S, self._last + _LEAST_APART_S)
        self.due = min(self.due, soon)
        return False
