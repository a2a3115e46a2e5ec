"""What guests get from a switch of their lab: addresses, names, a way to the outside; and again after a reset."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.lab_run import lab_runtime
from tests.support.nat import FAR, HOST, Place, place
from tests.support.netns import Namespace
from tests.support.run import wait_until
from tests.support.stacks import socket_in

__all__ = ["place"]

pytestmark = [pytest.mark.root, pytest.mark.guest]

LAB = """
[vm.h1]
image = "small"
start = ["ip link set eth0 up; udhcpc -i eth0 -n -q -t 10"]
[vm.h2]
image = "small"
start = ["ip link set eth0 up; udhcpc -i eth0 -n -q -t 10"]
[switch.lan]
ports = ["h1:eth0", "h2:eth0"]
addr = ["10.20.0.1/24", "fd00:20::1/64"]
dhcp = { range = "10.20.0.100-10.20.0.150", hosts = { h1 = "10.20.0.50" } }
ra = true
dns = { records = { www = "203.0.113.9" } }
nat = { addr = ["10.20.0.254/24", "fd00:20::fe/64"] }
"""


@contextmanager
def http_server(netns: Namespace, family: int, address: str) -> Iterator[None]:
    """Tells each client which address it has."""
    listener = socket_in(netns, family, socket.SOCK_STREAM)
    listener.settimeout(None)  # its end is its shutdown
    listener.bind((address, 8080))
    listener.listen()

    def serve() -> None:
        with suppress(OSError):  # the listener's end
            while True:
                connection, peer = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(f"HTTP/1.0 200 OK\r\n\r\n{peer[0]}\n".encode())

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        serving.join()


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("image")
def test_addresses_names_and_the_outside(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "served.toml"
    file.write_text(LAB)
    before = place.host.state()
    with lab_runtime(netns=place.host) as labs:
        labs.vbackend("up", str(file))

        def has_its_addresses() -> bool:
            found = labs.guest("h1", "ip -o addr show eth0")
            return "10.20.0.50/24" in found and "fd00:20::" in found

        def is_set_up() -> bool:
            return [vm.state for vm in labs.status("served").vms] == ["running", "running"]

        def again() -> bool:
            return is_set_up() and has_its_addresses()

        wait_until(has_its_addresses, "the reservation and an address of the announced prefix")
        assert labs.guest("h2", "getent hosts h1").split() == ["10.20.0.50", "h1.lab"]
        assert labs.guest("h1", "ping -c 1 -W 5 h2 >/dev/null && getent hosts www").split()[0] == FAR[4]
        with (
            http_server(place.server, socket.AF_INET, FAR[4]),
            http_server(place.server, socket.AF_INET6, FAR[6]),
        ):
            assert labs.guest("h1", "wget -q -O - http://www:8080/") == f"{HOST[4]}\n"
            assert labs.guest("h1", f"wget -q -O - 'http://[{FAR[6]}]:8080/'") == f"{HOST[6]}\n"
            assert "the guest was reset" in labs.vbackend("exec", "h1", "--", "reboot -f", status=1).err
            wait_until(again, "it is set up again")
            assert labs.guest("h1", "wget -q -O - http://www:8080/") == f"{HOST[4]}\n"
        labs.vbackend("down", "served")
        assert not labs.left()
        assert place.host.state() == before
