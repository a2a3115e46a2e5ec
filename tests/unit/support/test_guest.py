import pytest

from tests.support.guest import GuestError, PingResult, nic, parse_ping


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


def test_card_arguments() -> None:
    assert nic("stream,id=n0,addr.type=fd,addr.str=5", "52:54:00:00:00:01", host_mtu=9000) == [
        *("-netdev", "stream,id=n0,addr.type=fd,addr.str=5"),
        *("-device", "virtio-net-pci,netdev=n0,mac=52:54:00:00:00:01,id=nic-n0,romfile=,host-mtu=9000"),
    ]
    assert "netdev=a-b" in nic("id=a-b,type=x", "m")[3]
    with pytest.raises(ValueError, match="has no id"):
        nic("stream,addr.id=x", "m")
