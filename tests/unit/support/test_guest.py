import pytest

from tests.support.guest import nic


def test_card_arguments() -> None:
    assert nic("stream,id=n0,addr.type=fd,addr.str=5", "52:54:00:00:00:01", host_mtu=9000) == [
        *("-netdev", "stream,id=n0,addr.type=fd,addr.str=5"),
        *("-device", "virtio-net-pci,netdev=n0,mac=52:54:00:00:00:01,id=nic-n0,romfile=,host-mtu=9000"),
    ]
    assert "netdev=a-b" in nic("id=a-b,type=x", "m")[3]
    with pytest.raises(ValueError, match="has no id"):
        nic("stream,addr.id=x", "m")
