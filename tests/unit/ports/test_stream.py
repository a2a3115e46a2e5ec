"""Stream ports as classes. Listening is tested in tests/conformance/qemu_stream, dialling in test_dialling.py."""

from vbackend.ports.dialling import DiallingPort
from vbackend.ports.spec import PortOptions, StreamSpec, TcpAddress, UnixAddress
from vbackend.ports.stream import DialPort, ListenPort, OnePeerPort


def test_which_way_they_meet_their_peer() -> None:
    assert issubclass(ListenPort, OnePeerPort)
    assert issubclass(DialPort, DiallingPort)
    assert ListenPort.kind == DialPort.kind == "stream"


def test_a_dialling_port_dials_the_address_it_was_given() -> None:
    for address in (UnixAddress("/tmp/a.sock"), TcpAddress("192.0.2.1", 5555)):
        port = DialPort.__new__(DialPort)
        port.spec = StreamSpec("stream:…", PortOptions(), address, dial=True)
        assert port.address == address
