"""What slirp4netns is told and what it says; a running one is in tests/host/test_uplink.py."""

import asyncio
from pathlib import Path

import pytest

from tests.support.qemu_peers import eventually
from vbackend.errors import ConfigError, HostError
from vbackend.host import uplink as uplinks
from vbackend.host.outside import Outside
from vbackend.host.ruleset import parse_forward
from vbackend.host.uplink import Uplink, command, redirections


def test_the_command() -> None:
    begin = (
        "setpriv --pdeathsig KILL -- slirp4netns --configure --enable-ipv6 --enable-seccomp --mtu=65520 "
        "--cidr=192.0.0.0/25 "
    )
    end = "--userns-path=/proc/7/ns/user 7 vbuplink"
    for control, host_loopback, between in (
        (None, False, "--disable-host-loopback "),
        (None, True, ""),
        (Path("/run/a.sock"), False, "--disable-host-loopback --api-socket=/run/a.sock "),
    ):
        assert " ".join(command(7, control, host_loopback=host_loopback)) == begin + between + end


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tcp:8080:h1:80", {"proto": "tcp", "host_addr": "0.0.0.0", "host_port": 8080, "guest_port": 8080}),
        (
            "udp:127.0.0.1:5353:h1:53",
            {"proto": "udp", "host_addr": "127.0.0.1", "host_port": 5353, "guest_port": 5353},
        ),
    ],
)
def test_where_it_listens(text: str, expected: dict[str, object]) -> None:
    (asked,) = redirections([parse_forward(text)])
    assert asked == {"execute": "add_hostfwd", "arguments": {**expected, "guest_addr": "192.0.0.100"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tcp:80:h1:80", "forward tcp:80 to h1: without root only ports from 1024 on"),
        ("tcp:[::]:8080:h1:80", "forward tcp:8080 to h1: without root it listens at IPv4 only"),
    ],
)
def test_where_it_cannot_listen(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        redirections([parse_forward(text)])


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exec no-such-slirp", "it ended with status 127"),
        (
            "exec setpriv --pdeathsig KILL -- no-such-slirp",
            r"there is no slirp4netns; apt install slirp4netns \(Debian\)",
        ),
        (
            "echo sent tapfd=5 for tap0; echo Starting slirp; echo '* MTU: 1500'; echo no namespace; exit 1",
            "cannot give the lab an uplink: slirp4netns: no namespace; it ended with status 1",
        ),
        ("kill -9 $$", "cannot give the lab an uplink: slirp4netns: it was killed by SIGKILL"),
    ],
)
async def test_why_there_is_none(script: str, message: str, tmp_path: Path) -> None:
    outside = Outside()
    try:
        uplink = Uplink(outside, tmp_path)
        uplink._command = ["sh", "-c", script]
        with pytest.raises(HostError, match=message) as raised:
            await uplink.start()
        assert "\n" not in str(raised.value)
        await uplink.stop()
    finally:
        outside.close()


async def test_one_that_makes_no_route(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("vbackend.host.uplink._PATIENCE_S", 0.1)
    outside = Outside()
    try:
        uplink = Uplink(outside, tmp_path)
        uplink._command = ["sleep", "60"]
        for _ in range(2):  # the first one is not left running
            with pytest.raises(HostError, match="slirp4netns made no route in"):
                await uplink.start()
    finally:
        outside.close()


async def test_without_a_keeper(tmp_path: Path) -> None:
    outside = Outside()
    outside.close()
    with pytest.raises(
        HostError, match="cannot give the lab an uplink: cannot run setpriv: its keeper has ended"
    ):
        await Uplink(outside, tmp_path).start()


async def test_it_is_tried_again_whatever_went_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> "asyncio.Future[str]":
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    loop = asyncio.get_running_loop()
    first: asyncio.Future[str] = loop.create_future()
    last: asyncio.Future[str] = loop.create_future()
    first.set_result("it ended")
    outcomes: list[asyncio.Future[str] | Exception] = [
        first,
        OSError(24, "Too many open files"),
        HostError("no route"),
        last,
    ]
    monkeypatch.setattr(uplinks, "_DELAYS_S", (0.0,))
    outside = Outside()
    try:
        uplink = Uplink(outside, tmp_path)
        monkeypatch.setattr(uplink, "_run", run)
        await uplink.start()
        await eventually(lambda: not outcomes and uplink.trouble is None, "there is an uplink again")
        await uplink.stop()
    finally:
        outside.close()
