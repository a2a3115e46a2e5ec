"""Routes follow the cheaper cable for as long as it is up."""

import pytest

from vbackend.testing import Lab

pytestmark = pytest.mark.guest


def way(card: str) -> str:
    return f"ip route get 10.255.0.2 | grep 'dev {card}'"


@pytest.mark.lab("ospf.toml")
def test_routes_change_with_the_cable(lab: Lab) -> None:
    r1, r2, core = lab.vm("r1"), lab.vm("r2"), lab.link("core")
    r1.wait_until(way("eth0"), timeout=60)
    r2.wait_until("ip route get 10.255.0.1 | grep 'dev eth0'", timeout=60)
    slow = r1.run("ping -c 1 -W 5 10.255.0.2").stdout
    assert float(slow.partition("time=")[2].split()[0]) >= 100, "50 ms there, 50 ms back"

    core.down()  # both routers lose their carrier, and say so to OSPF at once
    r1.wait_until("grep -qx 0 /sys/class/net/eth0/carrier")
    r1.wait_until(way("eth1"), timeout=60)
    r1.wait_until("ping -c 1 10.255.0.2", timeout=60)

    core.up()
    r1.wait_until("birdc show ospf neighbors | grep 'Full.*eth0'", timeout=60)
    r1.wait_until(way("eth0"), timeout=60)
    r1.wait_until("ping -c 1 -W 5 10.255.0.2", timeout=60)
