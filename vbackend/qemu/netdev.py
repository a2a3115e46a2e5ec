"""QEMU's side of a port: the -netdev and -device arguments that make a NIC its peer. Pure.

    port                          QEMU
    stream, listens               stream, server=off: dials, and dials again where its version can (version.py)
    stream, dial                  stream, server=on: listens
    dgram, socket:udp             the same two addresses the other way round
    dgram:mcast, socket:mcast     the same group
    socket:                       -netdev socket, the same wire formats
    vde                           the directory of the switch that vbackend stands for
    vhost-user                    a socket chardev that dials, or listens, and -netdev vhost-user on it
    stream, dgram, socket, with `fd` the same netdev on a passed descriptor

Sources: qapi/net.json, chardev/char-socket.c and net/{stream,dgram,socket,vde,vhost-user}.c of QEMU 7.2 and 10.0.
Rule: what QEMU cannot do is a `ConfigError` here rather than an argument it refuses, or takes and misunderstands.
"""

from dataclasses import dataclass
from hashlib import sha256
from ipaddress import ip_address
from typing import Final, assert_never

from vbackend.errors import ConfigError
from vbackend.ports.spec import (
    ChannelSpec,
    DgramMcastSpec,
    DgramUdpSpec,
    DgramUnixSpec,
    PortSpec,
    StreamSpec,
    TapSpec,
    TcpAddress,
    TunSpec,
    UnitSpec,
    UnixAddress,
    VdeSpec,
    VhostUserSpec,
)
from vbackend.qemu.options import joined
from vbackend.qemu.version import QemuVersion, Reconnect

__all__ = ["NetdevArguments", "derived_mac", "netdev_arguments"]

_RECONNECT_S: Final = 1  # the least that `reconnect=` takes
_RECONNECT_MS: Final = 500
_OWN_MAC: Final = "every guest on this port needs a MAC address of its own: give one for each"

_Netdev = tuple[str, list[tuple[str, str]]]  # its type and its options
_Socket = StreamSpec | DgramUnixSpec | DgramUdpSpec | DgramMcastSpec
_Peer = _Socket | VdeSpec | VhostUserSpec


@dataclass(frozen=True, slots=True)
class NetdevArguments:
    arguments: tuple[str, ...]
    notes: tuple[str, ...]  # what to know about this QEMU with this port, one line each


def netdev_arguments(
    spec: PortSpec,
    version: QemuVersion,
    *,
    netdev_id: str = "vbackend0",
    mac: str | None = None,
    fd: int | None = None,
    model: str = "virtio-net-pci",
    kvm: bool = False,
) -> NetdevArguments:
    """The arguments for a NIC on the other end of `spec`.

    `mac`: the card's address; None: what the port lets through, else one derived from the port's text. `fd`: a
    connected socket that QEMU inherits, in place of the port's address. `kvm`: the guest runs on KVM, not on TCG.
    Of a vhost-user port the guest's memory must be shared, too (options.shared_memory). ConfigError: QEMU cannot
    be its peer.
    """
    if isinstance(spec, TapSpec | TunSpec | UnitSpec | ChannelSpec):
        raise ConfigError(
            f"port {spec.text!r} is not for a guest: QEMU connects to stream:, dgram:, socket:, "
            "vhost-user: and vde: ports"
        )
    chardev: list[str] = []
    card = [("netdev", netdev_id), ("mac", _card_mac(spec, mac))]
    if isinstance(spec, VhostUserSpec | VdeSpec) and fd is not None:
        what = "vhost-user" if isinstance(spec, VhostUserSpec) else "vde"
        raise ConfigError(f"port {spec.text!r}: QEMU takes {what} only on a socket with a path")
    if isinstance(spec, VhostUserSpec):
        place = [("id", f"{netdev_id}-socket"), *_chardev(spec, version)]
        chardev = ["-chardev", joined("socket", place)]
        kind, options = "vhost-user", [("chardev", f"{netdev_id}-socket")]
        options += [("queues", str(spec.queues))] if spec.queues > 1 else []
        card += _vhost_user_card(spec, version, kvm=kvm)
    elif isinstance(spec, VdeSpec):
        kind, options = "vde", [("sock", spec.directory)]
    elif not _is_legacy(spec) and not version.has_stream:
        raise ConfigError(
            f"port {spec.text!r}: QEMU {version} has no -netdev stream and dgram; take QEMU 7.2 or later, "
            "or a socket: port"
        )
    else:
        kind, options = _on_fd(spec, fd) if fd is not None else _on_address(spec, version)
    netdev = ["-netdev", joined(kind, [("id", netdev_id), *options])]
    arguments = (*chardev, *netdev, "-device", joined(model, card))
    return NetdevArguments(arguments, tuple(_notes(spec, version, mac, fd, kvm=kvm)))


def derived_mac(text: str) -> str:
    """An address in QEMU's range, always the same for one port."""
    return "52:54:00:" + sha256(f"vbackend nic {text}".encode(errors="surrogateescape")).digest()[:3].hex(":")


def _is_legacy(spec: _Socket) -> bool:
    return not isinstance(spec, DgramUnixSpec) and spec.legacy


def _on_address(spec: _Socket, version: QemuVersion) -> _Netdev:
    match spec:
        case StreamSpec(legacy=True):
            return _legacy_stream(spec)
        case StreamSpec():
            return _stream(spec, version)
        case DgramUnixSpec():
            return "dgram", [
                *_unix_end(spec, "local", spec.remote),
                *_unix_end(spec, "remote", spec.local),
            ]
        case DgramUdpSpec():
            return _udp(spec)
        case DgramMcastSpec():
            return _mcast(spec)
        case _:
            assert_never(spec)


def _on_fd(spec: _Socket, fd: int) -> _Netdev:
    if _is_legacy(spec):
        return "socket", [("fd", str(fd))]
    kind, end = ("stream", "addr") if isinstance(spec, StreamSpec) else ("dgram", "local")
    return kind, [(f"{end}.type", "fd"), (f"{end}.str", str(fd))]


def _stream(spec: StreamSpec, version: QemuVersion) -> _Netdev:
    options = [("server", "on" if spec.dial else "off")]
    match spec.address:
        case UnixAddress(path):
            options += [("addr.type", "unix"), ("addr.path", path.removeprefix("@"))]
            options += [("addr.abstract", "on")] if path.startswith("@") else []
        case TcpAddress(port=port):
            options += [("addr.type", "inet"), ("addr.host", _dialled(spec)), ("addr.port", str(port))]
        case _:
            assert_never(spec.address)
    return "stream", options if spec.dial else options + _reconnect(version.reconnect)


def _chardev(spec: VhostUserSpec, version: QemuVersion) -> list[tuple[str, str]]:
    """The control socket. QEMU waits for vbackend before the guest starts, with server=on,wait=off too."""
    path = spec.address.path
    options = [("path", path.removeprefix("@"))] + ([("abstract", "on")] if path.startswith("@") else [])
    if spec.dial:
        return [*options, ("server", "on"), ("wait", "off")]
    return options + _reconnect(version.chardev_reconnect)


def _vhost_user_card(spec: VhostUserSpec, version: QemuVersion, *, kvm: bool) -> list[tuple[str, str]]:
    card = [("mq", "on")] if spec.queues > 1 else []
    if version.vhost_user_needs_intx and not kvm:
        card += [("vectors", "0")]
    elif spec.queues > 1:
        card += [("vectors", str(2 * spec.queues + 2))]  # each ring, the control queue, the configuration
    card += [("packed", "on")] if spec.packed else []
    return card + ([("host_mtu", str(spec.mtu))] if spec.mtu is not None else [])


def _reconnect(how: Reconnect) -> list[tuple[str, str]]:
    match how:
        case Reconnect.SECONDS:
            return [("reconnect", str(_RECONNECT_S))]
        case Reconnect.MILLISECONDS:
            return [("reconnect-ms", str(_RECONNECT_MS))]
        case Reconnect.NEVER:
            return []
        case _:
            assert_never(how)


def _legacy_stream(spec: StreamSpec) -> _Netdev:
    if isinstance(spec.address, UnixAddress):
        raise ConfigError(f"port {spec.text!r}: -netdev socket has no Unix sockets; write stream:unix:PATH")
    place = f"{_ipv4(spec, _dialled(spec))}:{spec.address.port}"
    return "socket", [("listen" if spec.dial else "connect", place)]


def _udp(spec: DgramUdpSpec) -> _Netdev:
    theirs = TcpAddress(_ipv4(spec, spec.remote.host), spec.remote.port)
    ours = TcpAddress(_ipv4(spec, _reachable(spec.local.host)), spec.local.port)
    if spec.legacy:
        return "socket", [("udp", f"{ours.host}:{ours.port}"), ("localaddr", f"{theirs.host}:{theirs.port}")]
    return "dgram", [*_inet_end("local", theirs), *_inet_end("remote", ours)]


def _mcast(spec: DgramMcastSpec) -> _Netdev:
    if spec.legacy:
        local = [] if spec.interface is None else [("localaddr", spec.interface)]
        return "socket", [("mcast", f"{spec.group}:{spec.port}"), *local]
    # Of `local` only the host is used, to choose the interface, yet the port must be given (net/dgram.c).
    ends = [] if spec.interface is None else _inet_end("local", TcpAddress(spec.interface, 0))
    return "dgram", [*_inet_end("remote", TcpAddress(spec.group, spec.port)), *ends]


def _inet_end(end: str, address: TcpAddress) -> list[tuple[str, str]]:
    return [(f"{end}.type", "inet"), (f"{end}.host", address.host), (f"{end}.port", str(address.port))]


def _unix_end(spec: DgramUnixSpec, end: str, address: UnixAddress) -> list[tuple[str, str]]:
    if address.path.startswith("@"):  # net/dgram.c takes `abstract` and makes a file all the same
        raise ConfigError(f"port {spec.text!r}: QEMU's datagram sockets have no abstract names; give paths")
    return [(f"{end}.type", "unix"), (f"{end}.path", address.path)]


def _dialled(spec: StreamSpec) -> str:
    """The host to connect to, or to listen on."""
    assert isinstance(spec.address, TcpAddress), "only of TCP ports"
    if spec.address.port == 0:
        raise ConfigError(f"port {spec.text!r}: QEMU must know the TCP port; give its number in place of 0")
    return spec.address.host if spec.dial else _reachable(spec.address.host)


def _reachable(host: str) -> str:
    """Where to reach what listens on `host`: on this machine when it listens everywhere."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if not address.is_unspecified:
        return host
    return "127.0.0.1" if address.version == 4 else "::1"


def _ipv4(spec: StreamSpec | DgramUdpSpec, host: str) -> str:
    """-netdev socket and dgram resolve IPv4 only (net/util.c, convert_host_port)."""
    if ":" in host:
        raise ConfigError(
            f"port {spec.text!r}: QEMU has no IPv6 here; give IPv4 addresses, or a stream:tcp: port"
        )
    return host


def _card_mac(spec: _Peer, mac: str | None) -> str:
    allowed = None if spec.options.mac is None else spec.options.mac.hex(":")
    if mac is None:
        return allowed or derived_mac(spec.text)
    if allowed is not None and mac.lower().replace("-", ":") != allowed:
        raise ConfigError(
            f"port {spec.text!r} lets only mac={allowed} through; give the card that address, not {mac}"
        )
    return mac


def _notes(spec: _Peer, version: QemuVersion, mac: str | None, fd: int | None, *, kvm: bool) -> list[str]:
    if isinstance(spec, VhostUserSpec):
        crash = f"QEMU {version} crashes with vhost-user under TCG when a card has MSI-X"
        if not version.vhost_user_needs_intx:
            return []
        return [f"{crash}: this is for KVM only"] if kvm else [f"{crash}: that is why it has vectors=0"]
    if isinstance(spec, VdeSpec):
        notes = [
            "-netdev vde does not connect again: after a restart of vbackend the guest stays cut off",
            "this is for a QEMU that was built with VDE: `qemu-system-x86_64 -netdev help` has it then",
        ]
        return notes + ([] if mac is not None else [_OWN_MAC])
    notes = []
    dials = isinstance(spec, StreamSpec) and not spec.dial and fd is None
    if dials and (_is_legacy(spec) or version.reconnect is Reconnect.NEVER):
        which = "-netdev socket" if _is_legacy(spec) else f"QEMU {version}"
        remedy = "socket:connect:" if _is_legacy(spec) else f"{spec.text},dial"
        notes.append(
            f"{which} does not connect again: after a restart of vbackend the guest stays cut off; "
            f"the port {remedy} helps, there vbackend connects to QEMU"
        )
    if isinstance(spec, StreamSpec) and spec.multi and mac is None:
        notes.append(_OWN_MAC)
    return notes
