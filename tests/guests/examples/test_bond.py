"""An LACP bond works with any one of its cables, and knows the other one as dead by its carrier."""

import pytest

from vbackend.testing import Lab

pytestmark = pytest.mark.guest

PORTS = "cat /sys/class/net/bond0/bonding/ad_num_ports"
STATUS = "grep -A1 'Slave Interface: {}' /proc/net/bonding/bond0 | grep 'MII Status: {}'"


@pytest.mark.lab("bond.toml")
def test_a_bond_outlives_each_of_its_cables(lab: Lab) -> None:
    a, b = lab.vm("a"), lab.vm("b")
    for cable, card in (("one", "eth0"), ("two", "eth1")):
        for vm in (a, b):
            vm.wait_until(f"{PORTS} | grep -x 2", timeout=60)
        a.wait_until("ping -c 1 10.0.0.2")

        lab.link(cable).down()
        for vm in (a, b):
            vm.wait_until(STATUS.format(card, "down"))
            vm.wait_until(f"{PORTS} | grep -x 1")
        a.wait_until("ping -c 1 10.0.0.2")
        a.run("grep -qx 1 /sys/class/net/bond0/carrier")
        lab.link(cable).up()
        for vm in (a, b):
            vm.wait_until(STATUS.format(card, "up"))


@pytest.mark.lab("bond.toml")
def test_a_cable_that_keeps_its_carrier_is_found_by_lacp(lab: Lab) -> None:
    a = lab.vm("a")
    a.wait_until(f"{PORTS} | grep -x 2", timeout=60)
    lab.link("two").impair(loss=1.0)
    a.wait_until(f"{PORTS} | grep -x 1", timeout=60)  # three times a second without LACP from the other end
    a.run(STATUS.format("eth1", "up"))  # the carrier says nothing
    a.wait_until("ping -c 1 10.0.0.2")
