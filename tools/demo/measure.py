"""What the demo measures, and between whom: places that ping each other, and one TCP stream at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tests.support.guest import PingResult

__all__ = ["MeasureError", "Place", "RoundTrips", "Stream", "round_trips", "stream_of"]


class MeasureError(Exception):
    """A measurement gave no result; the text says which, and what came instead."""


class Place(Protocol):
    """A guest, or the host's end of the switch."""

    @property
    def name(self) -> str: ...
    @property
    def addresses(self) -> tuple[str, str]:
        """Its IPv4 and its IPv6 address."""

    async def ping(self, address: str) -> PingResult:
        """A few echo requests; losses are for the table."""

    async def iperf_server(self) -> None:
        """Return when a server listens that serves one client."""


@dataclass(frozen=True, slots=True)
class RoundTrips:
    source: str
    target: str
    by_version: Mapping[int, PingResult]  # 4 and 6

    @property
    def reached(self) -> bool:
        return all(result.received > 0 for result in self.by_version.values())


@dataclass(frozen=True, slots=True)
class Stream:
    source: str
    target: str
    megabits: float  # per second, counted at the receiver
    retransmits: int


async def round_trips(source: Place, target: Place) -> RoundTrips:
    answers = {version: await source.ping(target.addresses[version == 6]) for version in (4, 6)}
    return RoundTrips(source.name, target.name, answers)


def stream_of(source: Place, target: Place, report: Mapping[str, Any]) -> Stream:
    """Read the JSON report of an iperf3 client's TCP test."""
    try:
        end = report["end"]
        megabits = end["sum_received"]["bits_per_second"] / 1e6
        return Stream(source.name, target.name, megabits, end["sum_sent"].get("retransmits", 0))
    except (KeyError, TypeError) as error:
        raise MeasureError(f"iperf3 {source.name} → {target.name} gave a report without {error}") from error
