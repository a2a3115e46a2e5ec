"""Guests reach the outside through the gateway tap of their switch: as root, and as an ordinary user."""

import os
import signal
import socket

import pytest

from tests.support.nat import (
    FAR,
    GATEWAY,
    GUEST,
    HOST,
    USER,
    Lab,
    Place,
    asked_by_udp,
    guest,
    lab,
    place,
    seen_by,
    switches,
)
from tests.support.netns import differences
from tests.support.stacks import socket_in

__all__ = ["place"]

pytestmark = pytest.mark.root

BOTH = pytest.mark.parametrize("rootless", [False, True], ids=["root", "user"])


@pytest.mark.parametrize(
    ("rootless", "hidden"),
    [(False, ""), (False, "force_forwarding"), (True, "")],
    ids=["root", "root, Linux before 6.17", "user"],
)
def test_out_and_back_and_nothing_left(place: Place, rootless: bool, hidden: str) -> None:
    """`hidden`: a switch that older kernels do not have."""
    place.host.run(
        "nft", "add table inet filter; add chain inet filter own { type filter hook input priority 0; }"
    )
    place.host.run("nft", "add table ip vbackend-other")
    before, set_before = place.host.state(), switches(place.host)
    with lab(place, rootless=rootless, hidden=hidden) as running, guest(place):
        assert running.user == (USER if rootless else 0)
        for version, address in FAR.items():
            assert seen_by(place.server, place.client, address) == HOST[version]
            assert asked_by_udp(place.server, place.client, address, at=address, port=5353)
        if rootless:
            assert not differences(before, place.host.state())
            assert (place.folder / "lan.sock").stat().st_uid == USER
            assert running.tap in running.inside("ip", "-brief", "link")
        else:
            assert place.host.state()["nft"].startswith(before["nft"])
        running.stop()
    assert not differences(before, place.host.state())
    assert switches(place.host) == set_before
    assert not list((place.folder / "journal").glob("*"))


def test_nobody_comes_in_unasked(place: Place) -> None:
    place.server.ip("route", "add", "10.0.0.0/24", "via", "10.9.0.1")
    with lab(place, rootless=False) as running, guest(place):
        place.host.run("ping", "-n", "-c", "1", "-w", "10", GUEST[4])
        assert "100% packet loss" in place.server.run(
            "ping", "-n", "-c", "2", "-i", "0.1", "-W", "1", GUEST[4], check=False
        )
        running.stop()


def test_one_version_only(place: Place) -> None:
    with lab(place, rootless=False, nat={"addr": [GATEWAY[4]]}) as running, guest(place):
        assert seen_by(place.server, place.client, FAR[4]) == HOST[4]
        place.client.ip(
            "-6",
            "neigh",
            "replace",
            GATEWAY[6].split("/")[0],
            "lladdr",
            mac_of(place, running),
            "dev",
            "eth0",
        )
        said = place.client.run("ping", "-n", "-c", "2", "-i", "0.1", "-W", "1", FAR[6], check=False)
        assert "100% packet loss" in said
        running.stop()


FORWARD = ["tcp:8080:10.0.0.1:80", "tcp:127.0.0.1:8081:10.0.0.1:81", "udp:5353:10.0.0.1:53"]
FORWARD_6 = ["tcp:[::]:8080:[fd00:1::1]:80"]  # slirp4netns has none of these


@BOTH
def test_forwarded_ports(place: Place, rootless: bool) -> None:
    nat = {"addr": list(GATEWAY.values()), "forward": [*FORWARD, *([] if rootless else FORWARD_6)]}
    client, host = place.client, place.host
    with lab(place, rootless=rootless, nat=nat) as running, guest(place):
        for version in (4,) if rootless else (4, 6):
            assert seen_by(client, place.server, HOST[version], at=GUEST[version], to=80)
        assert asked_by_udp(client, place.server, HOST[4], at=GUEST[4], port=5353, to=53)
        for local in ("127.0.0.1", HOST[4]):
            assert seen_by(client, host, local, at=GUEST[4], to=80)
        assert seen_by(client, host, "127.0.0.1", at=GUEST[4], port=8081, to=81)
        with socket_in(host, socket.AF_INET, socket.SOCK_STREAM) as private:
            # The tap takes 127.0.0.0/8 while ports of it are forwarded; guests must not.
            private.bind(("127.0.0.1", 9999))
            private.listen(1)
            client.ip("route", "add", "127.0.0.1/32", "via", "10.0.0.254", "table", "77")
            client.ip("rule", "add", "to", "127.0.0.1", "priority", "0", "table", "77")
            client.ip("rule", "delete", "table", "local")
            client.run("sysctl", "-qw", "net.ipv4.conf.eth0.route_localnet=1")
            with socket_in(client, socket.AF_INET, socket.SOCK_STREAM) as guest_socket:
                guest_socket.settimeout(1.5)
                with pytest.raises(TimeoutError):
                    guest_socket.connect(("127.0.0.1", 9999))
        running.stop()


def test_the_next_start_undoes_what_a_killed_one_made(place: Place) -> None:
    before, set_before = place.host.state(), switches(place.host)
    with lab(place, rootless=False, nat={"addr": list(GATEWAY.values()), "forward": FORWARD}) as running:
        assert switches(place.host) != set_before
        os.kill(running.pid, signal.SIGKILL)
        running.child.wait(20)
    assert "vbackend-lab.lan" in place.host.state()["nft"]
    with lab(place, rootless=False) as running:
        assert place.host.state()["nft"].count("table inet vbackend") == 1
        running.stop()
    assert not differences(before, place.host.state())
    assert switches(place.host) == set_before
    assert not list((place.folder / "journal").glob("*"))


def test_the_last_nat_puts_the_switches_back(place: Place) -> None:
    before, set_before = place.host.state(), switches(place.host)
    with lab(place, rootless=False) as first:
        set_now = switches(place.host)
        other = {"addr": ["10.77.0.1/24", "fd77::1/64"]}
        with lab(place, rootless=False, lab="other", nat=other) as second:
            first.stop()
            assert switches(place.host) == set_now != set_before
            second.stop()
    assert not differences(before, place.host.state())
    assert switches(place.host) == set_before
    assert not list((place.folder / "journal").glob("*"))


def mac_of(place: Place, running: Lab) -> str:
    return str(place.host.links()[running.tap]["address"])
