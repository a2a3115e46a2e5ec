"""The splice between a socket and a device."""

import errno
import socket
import threading

import pytest

from tests.support.netns import Namespace, netns
from tests.support.splice import open_tun, splice
from vbackend.fds import OwnedFd
from vbackend.host.netns import run_in_namespace

__all__ = ["netns"]


def test_packets_go_both_ways_until_the_unit_ends() -> None:
    unit, program = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    device, host = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with unit, program, device, host:
        for sock in (unit, host):
            sock.settimeout(10)
        failures: list[OSError] = []
        joined = threading.Thread(target=splice, args=(program, device.fileno(), failures.append))
        joined.start()
        for number in range(10):
            unit.send(b"down %d" % number)
            assert host.recv(100) == b"down %d" % number
            host.send(b"up %d" % number)
            assert unit.recv(100) == b"up %d" % number
        host.shutdown(socket.SHUT_RD)
        unit.send(b"refused")
        unit.close()
        joined.join(10)
        assert not joined.is_alive()
        assert [error.errno for error in failures] == [errno.EPIPE]


@pytest.mark.root
def test_a_device_comes_and_goes(netns: Namespace) -> None:
    with OwnedFd(run_in_namespace(netns.name, lambda: open_tun("tun7"))):
        facts = netns.links()["tun7"]["linkinfo"]["info_data"]
        assert (facts["type"], facts["pi"]) == ("tun", False)
    assert "tun7" not in netns.links()
