"""Which class a port is of, by its specification."""

from collections.abc import Callable
from typing import assert_never

from vbackend.host.tap import HostDevices
from vbackend.ports.base import Port, PortContext
from vbackend.ports.channel import ChannelPort
from vbackend.ports.dgram import DgramPort
from vbackend.ports.multi import MultiPort
from vbackend.ports.spec import (
    ChannelSpec,
    DgramMcastSpec,
    DgramUdpSpec,
    DgramUnixSpec,
    PortSpec,
    StreamSpec,
    TapSpec,
    TunSpec,
    UnitSpec,
    VdeSpec,
    VhostUserSpec,
)
from vbackend.ports.stream import DialPort, ListenPort
from vbackend.ports.tap import TapPort
from vbackend.ports.tun import TunPort
from vbackend.ports.tunfile import TunFilePort
from vbackend.ports.unit import UnitPort
from vbackend.ports.vde import VdePort
from vbackend.ports.vhostuser import DialVhostUser, ListenVhostUser

__all__ = ["make_port"]


def make_port(context: PortContext, name: str, spec: PortSpec, devices: Callable[[], HostDevices]) -> Port:
    """A port that is neither created nor opened yet. `devices`: where host devices come from, if one is needed."""
    match spec:
        case StreamSpec(multi=True):
            return MultiPort(context, name, spec)
        case StreamSpec(dial=True):
            return DialPort(context, name, spec)
        case StreamSpec():
            return ListenPort(context, name, spec)
        case DgramUnixSpec() | DgramUdpSpec() | DgramMcastSpec():
            return DgramPort(context, name, spec)
        case TapSpec():
            return TapPort(context, name, spec, devices())
        case TunSpec():
            return TunPort(context, name, spec, devices())
        case UnitSpec(address=None):
            return TunFilePort(context, name, spec)
        case UnitSpec():
            return UnitPort(context, name, spec)
        case VhostUserSpec(dial=True):
            return DialVhostUser(context, name, spec)
        case VhostUserSpec():
            return ListenVhostUser(context, name, spec)
        case VdeSpec():
            return VdePort(context, name, spec)
        case ChannelSpec():
            return ChannelPort(context, name, spec)
        case _:
            assert_never(spec)
