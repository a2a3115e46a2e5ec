"""What is measured between places, and how an iperf3 report is read."""

import pytest

from tests.support.guest import PingResult
from tools.demo import measure
from tools.demo.measure import MeasureError, RoundTrips, Stream

ANSWERED = PingResult(5, 5, 0, 0.5)
SILENCE = PingResult(5, 0, 0, None)


class Somewhere:
    """A place that answers pings from a table."""

    def __init__(self, name: str, number: int, **answers: PingResult) -> None:
        self.name = name
        self.addresses = (f"10.77.0.{number}", f"fd77::{number}")
        self.answers = {"10.77.0.2": answers.get("v4", ANSWERED), "fd77::2": answers.get("v6", ANSWERED)}

    async def ping(self, address: str) -> PingResult:
        return self.answers[address]

    async def iperf_server(self) -> None: ...


@pytest.mark.parametrize(("v4", "v6", "reached"), [(ANSWERED, ANSWERED, True), (ANSWERED, SILENCE, False)])
async def test_round_trips_over_both_versions(v4: PingResult, v6: PingResult, reached: bool) -> None:
    result = await measure.round_trips(Somewhere("alice", 1, v4=v4, v6=v6), Somewhere("bob", 2))
    assert result == RoundTrips("alice", "bob", {4: v4, 6: v6})
    assert result.reached is reached


def test_stream_is_read_at_the_receiver() -> None:
    end = {"sum_sent": {"bits_per_second": 9e8, "retransmits": 7}, "sum_received": {"bits_per_second": 8e8}}
    stream = measure.stream_of(Somewhere("alice", 1), Somewhere("bob", 2), {"end": end})
    assert stream == Stream("alice", "bob", 800.0, 7)


@pytest.mark.parametrize("report", [{}, {"end": {}}, {"end": []}])
def test_report_without_a_result_says_between_whom(report: dict[str, object]) -> None:
    with pytest.raises(MeasureError, match="iperf3 alice → bob"):
        measure.stream_of(Somewhere("alice", 1), Somewhere("bob", 2), report)
