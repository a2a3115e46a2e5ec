"""A resolver asks again when an answer is lost: its user sees that it takes longer, and nothing else."""

import pytest

from vbackend.testing import Lab

pytestmark = pytest.mark.guest

LOOKUPS = 20


@pytest.mark.lab("dns.toml")
def test_lookups_over_a_lossy_link(lab: Lab) -> None:
    h1, link = lab.vm("h1"), lab.link("lan/h1:eth0")
    h1.wait_until("getent ahostsv4 www.lab")  # also settles ARP
    link.impair(loss=0.2, seed=7)  # of what goes to h1
    found = h1.run(f"for i in $(seq {LOOKUPS}); do getent ahostsv4 www.lab | head -n 1; done", timeout=120)
    assert found.stdout.split().count("10.0.0.9") == LOOKUPS
    assert link.stats.lost > 0
