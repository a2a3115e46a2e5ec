"""What a station looks like at one moment, for `show` and JSON."""

from pydantic import BaseModel, ConfigDict

from vbackend.services.leases import Lease

__all__ = ["StationSnapshot"]


class StationSnapshot(BaseModel):
    """`received = sum(handled) + sum(drops)` at every moment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    mac: str
    addresses: tuple[str, ...]  # "10.0.0.1/24"; the link-local one comes last
    services: tuple[str, ...]  # of dhcp, ra, dhcp6, dns
    received: int
    handled: dict[str, int]  # arp, neighbour, echo, unreachable, solicitation, dns, dhcp6, dhcp-discover, ...
    drops: dict[str, int]  # by `reasons.Drop`
    sent: int
    lost: int  # frames that the port did not take
    advertisements: int  # to all
    dns_answers: dict[str, int]  # by response code; those of other name servers under "forwarded"
    dns_waiting: int
    leases: tuple[Lease, ...]
