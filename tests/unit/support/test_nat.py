import json

import pytest

from tests.support.nat import FAR, HOST, USER, Place, asked_by_udp, place, seen_by, started, switches

__all__ = ["place"]

pytestmark = pytest.mark.root


def test_the_host_reaches_the_server_and_the_client_nobody(place: Place) -> None:
    for version, address in FAR.items():
        assert seen_by(place.server, place.host, address) == HOST[version]
        assert asked_by_udp(place.server, place.host, address, at=address, port=5353)
        assert place.client.ip(f"-{version}", "route") == ""
    assert place.folder.stat().st_uid == USER


def test_switches_of_what_is_there_for_good(place: Place) -> None:
    found = switches(place.host)
    assert found["/proc/sys/net/ipv4/conf/up0/forwarding"] in ("0", "1")
    place.host.ip("link", "add", "vb0", "type", "bridge")
    place.host.run("sysctl", "-qw", "net.ipv6.conf.up0.accept_ra=0")
    assert switches(place.host) == found | {"/proc/sys/net/ipv6/conf/up0/accept_ra": "0"}


def test_a_lab_that_does_not_come_up_says_why(place: Place) -> None:
    with started(
        place, rootless=False, nat={"addr": ["10.0.0.254/24"], "forward": ["tcp:80:h1:80"]}
    ) as child:
        out, log = child.communicate("", timeout=30)
    assert out.startswith("ConfigError forward to h1:80: no address of h1 is known"), json.dumps([out, log])
