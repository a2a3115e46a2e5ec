import pytest

from tests.support.linux import GuestError, PingResult, parse_ping


@pytest.mark.parametrize(
    ("text", "result"),
    [
        (
            "3 packets transmitted, 3 received, 0% packet loss, time 2003ms\n"
            "rtt min/avg/max/mdev = 0.021/0.035/0.050/0.011 ms\n",
            PingResult(3, 3, 0, 0.035),
        ),
        ("2 packets transmitted, 0 received, 100% packet loss, time 1009ms\n\n", PingResult(2, 0, 0, None)),
        (
            "1 packets transmitted, 0 received, +1 errors, 100% packet loss, time 0ms\n",
            PingResult(1, 0, 0, None),
        ),
        (
            "4 packets transmitted, 4 received, +2 duplicates, 0% packet loss, time 5ms\n"
            "rtt min/avg/max/mdev = 1.0/2.5/3.0/0.1 ms, pipe 2\n",
            PingResult(4, 4, 2, 2.5),
        ),
    ],
)
def test_ping_statistics(text: str, result: PingResult) -> None:
    assert parse_ping("PING 10.0.0.1 ...\n\n--- 10.0.0.1 ping statistics ---\n" + text) == result
    assert result.lost == result.sent - result.received


def test_ping_without_statistics() -> None:
    with pytest.raises(GuestError, match="unknown host"):
        parse_ping("ping: unknown host")
