"""What pasta is told and what it says; a running one is in tests/host/test_uplink.py."""

import pytest

from vbackend.errors import ConfigError, HostError
from vbackend.host.outside import Outside
from vbackend.host.ruleset import parse_forward
from vbackend.host.uplink import Uplink, command, ports


def told(*texts: str, host_loopback: bool = False) -> str:
    return " ".join(command(7, ports([parse_forward(text) for text in texts]), host_loopback=host_loopback))


def test_the_command() -> None:
    assert told() == (
        "setpriv --pdeathsig KILL -- pasta --foreground --quiet --config-net --ns-ifname vbuplink "
        "--address 192.0.0.2 --gateway 192.0.0.1 --address fd76:6261:636b::2 --gateway fd76:6261:636b::1 "
        "--netmask 29 --mtu 1500 --dns-forward 192.0.0.3 --no-map-gw -t none -u none -T none -U none 7"
    )
    assert "--no-map-gw" not in told(host_loopback=True)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("tcp:8080:h1:80",), "-t 0.0.0.0/8080 -u none"),
        (("tcp:127.0.0.1:8080:h1:80", "udp:5353:h1:53"), "-t 127.0.0.1/8080 -u 0.0.0.0/5353"),
        (("tcp:8080:h1:80", "tcp:8081:h2:80"), "-t 0.0.0.0/8080 -t 0.0.0.0/8081 -u none"),
        (("tcp:8080:h1:80", "tcp:[::]:8080:h1:80"), "-t 8080 -u none"),
        (("tcp:[::]:8080:h1:80",), "-t ::/8080 -u none"),
    ],
)
def test_where_it_listens(texts: tuple[str, ...], expected: str) -> None:
    assert f" {expected} -T none" in told(*texts)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("tcp:80:h1:80",), "without root only ports from 1024 on"),
        (("tcp:127.0.0.1:8080:h1:80", "tcp:8080:h2:80"), "one address, not 0.0.0.0 and 127.0.0.1"),
    ],
)
def test_where_it_cannot_listen(texts: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        told(*texts)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exec no-such-pasta", "it ended with status 127"),
        (
            "exec setpriv --pdeathsig KILL -- no-such-pasta",
            r"there is no pasta; apt install passt \(Debian\)",
        ),
        (
            "echo Failed to send 30 bytes to syslog; echo External interface not usable; exit 1",
            "pasta: External interface not usable; it ended with status 1; the host needs a default route",
        ),
        ("kill -9 $$", "cannot give the lab an uplink: pasta: it was killed by SIGKILL"),
    ],
)
async def test_why_there_is_none(script: str, message: str) -> None:
    outside = Outside()
    try:
        uplink = Uplink(outside)
        uplink._command = ["sh", "-c", script]
        with pytest.raises(HostError, match=message) as raised:
            await uplink.start()
        assert "\n" not in str(raised.value)
        await uplink.stop()
    finally:
        outside.close()


async def test_one_that_makes_no_route(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vbackend.host.uplink._PATIENCE_S", 0.1)
    outside = Outside()
    try:
        uplink = Uplink(outside)
        uplink._command = ["sleep", "60"]
        for _ in range(2):  # the first one is not left running
            with pytest.raises(HostError, match="pasta made no route in"):
                await uplink.start()
    finally:
        outside.close()


async def test_without_a_keeper() -> None:
    outside = Outside()
    outside.close()
    with pytest.raises(
        HostError, match="cannot give the lab an uplink: cannot run setpriv: its keeper has ended"
    ):
        await Uplink(outside).start()
