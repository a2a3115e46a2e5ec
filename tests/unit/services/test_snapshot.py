"""A snapshot survives JSON, leases included."""

from vbackend.services.leases import Lease
from vbackend.services.snapshot import StationSnapshot


def test_json_and_back() -> None:
    lease = {
        "address": "10.0.0.5",
        "client": "01",
        "mac": "52:54:00:00:00:07",
        "hostname": "h1",
        "state": "bound",
    }
    snapshot = StationSnapshot(
        name="lan",
        mac="02:00:00:00:00:01",
        addresses=("10.0.0.1/24",),
        services=("dhcp",),
        received=3,
        handled={"arp": 2},
        drops={"short": 1},
        sent=2,
        lost=0,
        advertisements=0,
        dns_answers={},
        dns_waiting=0,
        leases=(Lease.model_validate(lease | {"until": 1.5}),),
    )
    text = snapshot.model_dump_json()
    assert '"address":"10.0.0.5"' in text
    assert StationSnapshot.model_validate_json(text) == snapshot
