"""Who has which address: the bindings of a DHCP server. Pure; time is an argument, in seconds since the epoch.

Rules: an address has at most one binding, and a client at most one that is not over. A binding that is over stays
known, so that its client gets the address again while nobody else needs it. There are never more bindings than
addresses in the range and reservations.
"""

from collections.abc import Iterator, Sequence, Set
from ipaddress import IPv4Address
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from vbackend.errors import ConfigError
from vbackend.services.config import Dhcp4Config, Reservation

__all__ = ["Lease", "Leases", "State"]

State = Literal["offered", "bound", "released", "declined"]


class Lease(BaseModel):
    """`until`: seconds since the epoch; afterwards it is over. A released one is over at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: IPv4Address
    client: str  # the client identifier or what stands for it, in hexadecimal
    mac: str  # "52:54:00:12:34:56"
    hostname: str | None
    state: State
    until: float


_LIST: Final = TypeAdapter(list[Lease])


class Leases:
    """`kept`: the server's own address and the like, which are never given away."""

    def __init__(self, config: Dhcp4Config, kept: Set[IPv4Address]) -> None:
        self._config = config
        self._kept = kept
        self._leases: dict[IPv4Address, Lease] = {}
        self._by_client: dict[str, IPv4Address] = {}
        self._reserved = {one.address: one for one in config.reservations}

    def of_client(self, client: str) -> Lease | None:
        """Its binding, or the last one it had if nobody has that address since."""
        address = self._by_client.get(client)
        return None if address is None else self._leases[address]

    def at(self, address: IPv4Address) -> Lease | None:
        return self._leases.get(address)

    def active(self, now: float) -> Iterator[Lease]:
        """Those that clients use."""
        for lease in self._leases.values():
            if lease.state == "bound" and lease.until > now:
                yield lease

    def all(self) -> tuple[Lease, ...]:
        return tuple(self._leases[address] for address in sorted(self._leases))

    def serves(self, address: IPv4Address) -> bool:
        """Whether the address is this server's to give."""
        return address not in self._kept and (
            self._config.first <= address <= self._config.last or address in self._reserved
        )

    def may_have(self, client: str, mac: str, hostname: str | None, address: IPv4Address, now: float) -> bool:
        """Whether the address is free for this client: reservations go before what is bound already.

        A client that does not say its name again is still who it was while its lease lasts.
        """
        if not self.serves(address):
            return False
        reservation = self._reserved.get(address)
        lease = self._leases.get(address)
        if hostname is None and lease is not None and lease.client == client and lease.until > now:
            hostname = lease.hostname
        if reservation is not None and not _is_for(reservation, mac, hostname):
            return False
        if lease is None or lease.until <= now:
            return True
        if lease.state == "declined":
            return False
        mine = reservation is not None and reservation.mac is not None and lease.mac == mac
        return lease.client == client or mine  # its firmware and its system may call themselves differently

    def choose(
        self, client: str, mac: str, hostname: str | None, wished: IPv4Address | None, now: float
    ) -> IPv4Address | None:
        """RFC 2131 4.3.1: what is reserved, has or had, wishes; else an address never used, or unused the longest."""
        had = self.of_client(client)
        reserved = self.reserved(mac, hostname)
        for address in (reserved, had.address if had else None, wished):
            if address is not None and self.may_have(client, mac, hostname, address, now):
                return address
        best, unused_since = None, now
        for number in range(int(self._config.first), int(self._config.last) + 1):
            address = IPv4Address(number)
            if address in self._kept or address in self._reserved:
                continue
            lease = self._leases.get(address)
            if lease is None:
                return address
            if lease.until < unused_since or (best is None and lease.until == now):
                best, unused_since = address, lease.until
        return best

    def reserved(self, mac: str, hostname: str | None) -> IPv4Address | None:
        """By MAC address if there is such a one, else by name."""
        found = [one for one in self._config.reservations if _is_for(one, mac, hostname)]
        found.sort(key=lambda one: one.mac is None)
        return found[0].address if found else None

    def put(self, lease: Lease, now: float) -> None:
        """The address has this binding now; a client's other one ends, one of another client is forgotten."""
        before = self._leases.get(lease.address)
        if before is not None and self._by_client.get(before.client) == lease.address:
            del self._by_client[before.client]
        self._leases[lease.address] = lease
        if lease.state == "declined":  # nobody's
            return
        other = self._by_client.get(lease.client)
        if other is not None and other != lease.address:
            self.end(other, now)
        self._by_client[lease.client] = lease.address

    def end(self, address: IPv4Address, now: float) -> None:
        lease = self._leases[address]
        ended = {"state": "released", "until": min(lease.until, now)}
        self._leases[address] = lease.model_copy(update=ended)

    def to_json(self) -> str:
        return _LIST.dump_json(list(self.all())).decode()

    def load(self, text: str, now: float) -> None:
        """Take over what `to_json` of an earlier server said, as far as its addresses are still to be given.

        ConfigError: it is not such a text.
        """
        try:
            found: Sequence[Lease] = _LIST.validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "it"
            raise ConfigError(f"read leases: {where}: {first['msg']}; remove them to begin anew") from None
        for lease in sorted(
            found, key=lambda lease: lease.until
        ):  # of a client's bindings the last one counts
            if self.serves(lease.address):
                self.put(lease, now)


def _is_for(reservation: Reservation, mac: str, hostname: str | None) -> bool:
    if reservation.mac is not None and reservation.mac.hex(":") == mac:
        return True
    return (
        reservation.hostname is not None and hostname is not None and reservation.hostname.lower() == hostname
    )
