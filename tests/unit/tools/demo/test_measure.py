"""Reading ping and iperf3: what busybox prints in the guests, and iputils on Debian."""

import json

import pytest

from tools.demo import measure
from tools.demo.measure import MeasureError, Ping, Throughput

IPUTILS = """PING 10.77.0.2 (10.77.0.2) 56(84) bytes of data.
64 bytes from 10.77.0.2: icmp_seq=1 ttl=64 time=0.031 ms

--- 10.77.0.2 ping statistics ---
2 packets transmitted, 2 received, 0% packet loss, time 1003ms
rtt min/avg/max/mdev = 0.031/0.034/0.037/0.003 ms
"""
IPUTILS_ERRORS = """PING 10.77.0.9 (10.77.0.9) 56(84) bytes of data.
From 10.77.0.1 icmp_seq=1 Destination Host Unreachable

--- 10.77.0.9 ping statistics ---
1 packets transmitted, 0 received, +1 errors, 100% packet loss, time 0ms
"""
BUSYBOX = """PING fd77::2 (fd77::2): 56 data bytes
64 bytes from fd77::2: seq=0 ttl=64 time=0.500 ms

--- fd77::2 ping statistics ---
3 packets transmitted, 1 packets received, 66% packet loss
round-trip min/avg/max = 0.100/0.500/0.900 ms
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [(IPUTILS, Ping(2, 2, 0.034)), (IPUTILS_ERRORS, Ping(1, 0, None)), (BUSYBOX, Ping(3, 1, 0.5))],
)
def test_ping_output(text: str, expected: Ping) -> None:
    assert measure.parse_ping(text) == expected


def test_ping_that_did_not_run() -> None:
    with pytest.raises(MeasureError, match="bad address"):
        measure.parse_ping("ping: bad address 'x'\n")


def test_iperf_report() -> None:
    end = {"sum_sent": {"bits_per_second": 9e8, "retransmits": 7}, "sum_received": {"bits_per_second": 8e8}}
    assert measure.parse_iperf(json.dumps({"end": end})) == Throughput(800.0, 7)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "nothing"),
        ("iperf3: not found", "not found"),
        ('{"end": {}}', "no report"),
        ('{"end": {}, "error": "unable to connect"}', "iperf3: unable to connect"),
        ("[]", "no report"),
    ],
)
def test_iperf_failure_says_why(text: str, says: str) -> None:
    with pytest.raises(MeasureError, match=says):
        measure.parse_iperf(text)


class Recorder:
    """A place that answers from a list."""

    name = "guest"
    addresses = ("10.77.0.2", "fd77::2")

    def __init__(self, *answers: tuple[int, str]) -> None:
        self.answers = list(answers)
        self.commands: list[str] = []

    def sh(self, command: str, *, timeout: float) -> tuple[int, str]:
        assert timeout > 0
        self.commands.append(command)
        return self.answers.pop(0)


@pytest.mark.parametrize(("version", "address"), [(4, "10.77.0.2"), (6, "fd77::2")])
def test_ping_goes_to_the_address_of_its_version(version: int, address: str) -> None:
    source = Recorder((0, IPUTILS))
    assert measure.ping(source, Recorder(), version=version).received == 2
    assert source.commands == [f"ping -{version} -c 5 -i 0.2 -W 2 {address}"]


def test_throughput_needs_its_server() -> None:
    with pytest.raises(MeasureError, match="guest did not start: no room"):
        measure.throughput(Recorder(), Recorder((1, "no room")))
