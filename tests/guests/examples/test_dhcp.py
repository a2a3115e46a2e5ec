"""What a DHCP client gets, and that it keeps it."""

import pytest

from vbackend.testing import Lab

pytestmark = pytest.mark.guest

LEASES = "grep -c 'lease of {} obtained from 10.0.0.1, lease time 3600' /run/udhcpc.log"


@pytest.mark.lab("dhcp.toml")
def test_reservation_lease_and_renewal(lab: Lab) -> None:
    h1, h2 = lab.vm("h1"), lab.vm("h2")
    reserved = LEASES.format("10.0.0.50")
    h1.wait_until(reserved, timeout=60)
    h2.wait_until(LEASES.format("10.0.0.1[0-5][0-9]"), timeout=60)

    h1.wait_until("ip -o -4 addr show dev eth0 | grep 'inet 10.0.0.50/24'")
    h1.wait_until("ip route | grep 'default via 10.0.0.1 dev eth0'")
    h1.wait_until("grep 'nameserver 10.0.0.1' /etc/resolv.conf")
    h2.wait_until("ping -c 1 10.0.0.50")

    h1.run("kill -USR1 $(cat /run/udhcpc.pid)")  # to udhcpc: renew now
    h1.wait_until(f"{reserved} | grep -x 2")
    h1.run("kill -USR2 $(cat /run/udhcpc.pid)")  # release
    h1.wait_until("! ip -o -4 addr show dev eth0 | grep inet")
