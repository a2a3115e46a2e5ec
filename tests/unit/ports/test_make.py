"""Every kind of specification has its class of port."""

from typing import cast

import pytest

from vbackend.host.tap import HostDevices
from vbackend.ports.base import Port, PortContext
from vbackend.ports.channel import ChannelPort
from vbackend.ports.dgram import DgramPort
from vbackend.ports.make import make_port
from vbackend.ports.multi import MultiPort
from vbackend.ports.parse import parse_port
from vbackend.ports.spec import ChannelSpec, PortOptions, PortSpec, UnitSpec, UnixAddress, VhostUserSpec
from vbackend.ports.stream import DialPort, ListenPort
from vbackend.ports.tap import TapPort
from vbackend.ports.tun import TunPort
from vbackend.ports.tunfile import TunFilePort
from vbackend.ports.unit import UnitPort
from vbackend.ports.vde import VdePort
from vbackend.ports.vhostuser import DialVhostUser, ListenVhostUser


class Context:
    """As much of a context as a constructor looks at."""

    queue_frames = 7


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (parse_port("stream:unix:/tmp/a"), ListenPort),
        (parse_port("stream:unix:/tmp/a,dial"), DialPort),
        (parse_port("stream:unix:/tmp/a,multi"), MultiPort),
        (parse_port("dgram:unix:/tmp/a:/tmp/b"), DgramPort),
        (parse_port("dgram:udp:127.0.0.1:5:127.0.0.1:6"), DgramPort),
        (parse_port("dgram:mcast:230.0.0.1:5"), DgramPort),
        (parse_port("tap:tap0"), TapPort),
        (parse_port("tun:tun0"), TunPort),
        (parse_port("unit:/tmp/a"), UnitPort),
        (parse_port("vde:/tmp/a"), VdePort),
        (VhostUserSpec("vhost-user:/a", PortOptions(), UnixAddress("/a")), ListenVhostUser),
        (VhostUserSpec("vhost-user:/a", PortOptions(), UnixAddress("/a"), dial=True), DialVhostUser),
        (UnitSpec("tunfile:a", PortOptions(), None), TunFilePort),
        (ChannelSpec("channel:a", PortOptions()), ChannelPort),
    ],
)
def test_kinds(spec: PortSpec, kind: type[Port]) -> None:
    asked = []

    def devices() -> HostDevices:
        asked.append(spec)
        return cast(HostDevices, None)

    made = make_port(cast(PortContext, Context()), "name", spec, devices)
    assert type(made) is kind
    assert (made.name, made.spec, made.queue_frames) == ("name", spec, 7)
    assert bool(asked) == (kind in (TapPort, TunPort))
