"""The text form of a port, in both directions: `parse_port` and `format_port`.

    PORT = KIND:WHERE[,key=value]...        a comma inside a value is written ",,", as in QEMU

Pure: no name is resolved, nothing is opened. Rule: `parse_port` gives a spec or raises `ConfigError` with one
line that says which argument, what is wrong and what would be right; `parse_port(format_port(spec)) == spec`.
"""

from collections.abc import Callable
from difflib import get_close_matches
from typing import Final, Literal, TypeVar, assert_never

from vbackend.errors import ConfigError
from vbackend.ports import impairment, rates, values
from vbackend.ports.impairment import NO_IMPAIRMENT
from vbackend.ports.spec import (
    Address,
    ChannelSpec,
    DgramMcastSpec,
    DgramUdpSpec,
    DgramUnixSpec,
    PortOptions,
    PortSpec,
    StreamSpec,
    TapSpec,
    TunSpec,
    UnitSpec,
    VdeSpec,
    VhostUserSpec,
)
from vbackend.tun.vocabulary import HEADERS, SYSTEMS

__all__ = ["PORT_KINDS", "format_port", "parse_port"]

T = TypeVar("T")

_COMMON_KEYS: Final = ("name", "mac", "queue", "queue-bytes", "isolated", "rate", "burst", *impairment.KEYS)
_FLAGS: Final = frozenset({"isolated", "dial", "multi", "pi"})
_TAP_MTU: Final = (68, 65_521)  # what the kernel takes for a tap device (protocols.md 3)
_TUN_MTU: Final = (68, 65_535)
_VHOST_MTU: Final = (68, 65_535)  # VIRTIO 1.2, 5.1.4.1
_VHOST_QUEUES: Final = (1, 16)  # pairs
_BUSY_POLL: Final = (0, 1_000_000)  # µs
_UNIT_MTU: Final = (576, 65_535)  # if_tun.c tun_ioctl, SIOCSIFMTU
_MODES: Final[tuple[Literal["pointopoint", "broadcast"], ...]] = ("pointopoint", "broadcast")
_QUEUE_FRAMES: Final = (1, 65_536)
_QUEUE_BYTES: Final = (69_632, 1 << 30)  # at least one frame of the longest kind


def parse_port(text: str) -> PortSpec:
    """Parse a PORT argument. Raises only `ConfigError`, whose text is one line."""
    try:
        place, *words = _split_commas(text)
        kind, colon, where = place.partition(":")
        if kind not in _KINDS:
            raise _unknown("kind of port", kind, tuple(_KINDS))
        forms, parse = _KINDS[kind]
        if not colon or not where:
            raise ValueError(f"it does not say where; write {forms}")
        return parse(place, where, words)
    except ValueError as error:
        shown = text if len(text) <= 120 else text[:117] + "..."
        raise ConfigError(f"port {shown!r}: {error}") from None


def format_port(spec: PortSpec) -> str:
    """The PORT argument that parses to `spec`. A `ChannelSpec` has none: what humans are shown is given."""
    words = [spec.text, *_format_options(spec.options)]
    match spec:
        case StreamSpec():
            words += ["dial"] if spec.dial and not spec.legacy else []
            words += ["multi"] if spec.multi else []
        case DgramMcastSpec():
            words += _pairs(("local", spec.interface))
        case TapSpec():
            words += [f"addr={address}" for address in spec.addresses]
            words += _pairs(
                ("bridge", spec.bridge), ("netns", spec.netns), ("owner", spec.owner), ("mtu", spec.mtu)
            )
            words += [] if spec.offloads else ["offloads=off"]
        case TunSpec():
            words += [f"addr={address}" for address in spec.addresses]
            words += [f"peer={peer}" for peer in spec.peers]
            words += _pairs(("netns", spec.netns), ("owner", spec.owner), ("mtu", spec.mtu))
            words += ["pi"] if spec.packet_info else []
        case UnitSpec():
            words += [f"addr={address}" for address in spec.addresses]
            words += [f"peer={peer}" for peer in spec.peers]
            words += _pairs(
                ("header", None if spec.header == "none" else spec.header),
                ("mtu", spec.mtu),
                ("mode", spec.mode),
                ("family", None if spec.family == "netbsd" else spec.family),
            )
        case VhostUserSpec():
            words += ["dial"] if spec.dial else []
            words += _pairs(
                ("queues", None if spec.queues == 1 else spec.queues),
                ("packed", None if spec.packed else "off"),
                ("offloads", None if spec.offloads else "off"),
                ("busy-poll", spec.busy_poll or None),
                ("mtu", spec.mtu),
            )
        case VdeSpec():
            words += _pairs(
                ("mode", None if spec.mode is None else f"{spec.mode:04o}"), ("group", spec.group)
            )
        case DgramUnixSpec() | DgramUdpSpec() | ChannelSpec():
            pass
        case _:
            assert_never(spec)
    return ",".join(word.replace(",", ",,") for word in words)


class _Keys:
    """The key=value part of a port: each key known, given once unless it may repeat, with a good value."""

    def __init__(self, words: list[str], kind: str, own: tuple[str, ...]) -> None:
        self._values: dict[str, list[str]] = {}
        known = (*own, *_COMMON_KEYS)
        for word in words:
            key, equals, value = word.partition("=")
            if not word:
                raise ValueError(
                    'there is an empty option; drop the extra comma, or write ",," for a comma in a path'
                )
            if key not in known:
                raise _unknown(f"option of {kind} ports", key, known)
            if key in _FLAGS and equals:
                raise ValueError(f"{key!r} takes no value; write just {key!r}, or leave it out")
            if key not in _FLAGS and not value:
                raise ValueError(f"{key!r} needs a value; write {key}=VALUE")
            self._values.setdefault(key, []).append(value)

    def flag(self, key: str) -> bool:
        return self._one(key) is not None

    def value(self, key: str, read: Callable[[str, str], T]) -> T | None:
        text = self._one(key)
        return None if text is None else read(key, text)

    def on(self, key: str) -> bool:
        """Of a key that is on unless it is set to off."""
        return self.value(key, values.one_of(("on", "off"))) != "off"

    def values(self, key: str, read: Callable[[str, str], T]) -> tuple[T, ...]:
        return tuple(read(key, text) for text in self._values.get(key, ()))

    def options(self) -> PortOptions:
        rate, burst = self.value("rate", rates.read_rate), self.value("burst", rates.read_burst)
        if burst is not None and rate is None:
            raise ValueError("'burst' is of no use without a rate; give rate=BITS too, e.g. rate=10M")
        return PortOptions(
            name=self.value("name", values.port_name),
            queue=self.value("queue", values.number(*_QUEUE_FRAMES)),
            queue_bytes=self.value("queue-bytes", values.number(*_QUEUE_BYTES)),
            mac=self.value("mac", values.mac_address),
            isolated=self.flag("isolated"),
            rate=rate,
            burst=burst,
            impairment=NO_IMPAIRMENT.changed(
                {key: text for key in impairment.KEYS if (text := self._one(key)) is not None}
            ),
        )

    def _one(self, key: str) -> str | None:
        found = self._values.get(key, [])
        if len(found) > 1:
            raise ValueError(f"{key!r} is given {len(found)} times; give it once")
        return found[0] if found else None


def _stream(place: str, where: str, words: list[str]) -> StreamSpec:
    keys = _Keys(words, "stream", ("dial", "multi"))
    options, dial, multi = keys.options(), keys.flag("dial"), keys.flag("multi")
    family, _, rest = where.partition(":")
    match family:
        case "unix":
            address = values.unix_address("the socket's path", rest)
            return _checked(StreamSpec(place, options, address, dial, multi))
        case "tcp":
            (tcp,) = values.host_ports("stream:tcp:HOST:PORT", rest, pairs=1, any_port=not dial)
            return _checked(StreamSpec(place, options, tcp, dial, multi))
        case _:
            raise _unknown("kind of stream", family, ("unix", "tcp"))


def _socket(place: str, where: str, words: list[str]) -> PortSpec:
    mode, _, rest = where.partition(":")
    form = f"socket:{mode}:HOST:PORT"
    match mode:
        case "listen" | "connect":
            keys = _Keys(words, "socket", ("multi",))
            (tcp,) = values.host_ports(form, rest, pairs=1, ipv4_only="stream:tcp", any_port=mode == "listen")
            multi = keys.flag("multi")
            return _checked(StreamSpec(place, keys.options(), tcp, mode == "connect", multi, legacy=True))
        case "udp":
            return _udp(place, rest, _Keys(words, "socket", ()), legacy=True)
        case "mcast":
            return _mcast(place, rest, _Keys(words, "socket", ("local",)), legacy=True)
        case _:
            raise _unknown("kind of socket", mode, ("listen", "connect", "udp", "mcast"))


def _dgram(place: str, where: str, words: list[str]) -> PortSpec:
    family, _, rest = where.partition(":")
    match family:
        case "unix":
            options = _Keys(words, "dgram", ()).options()
            paths = rest.split(":")
            if len(paths) != 2:
                raise ValueError(f"{rest!r} is not LOCAL:REMOTE; give two paths without a colon in them")
            local, remote = (
                values.unix_address(f"the {end} path", path)
                for end, path in zip(("local", "remote"), paths, strict=True)
            )
            if local == remote:
                raise ValueError("the local and the remote path are the same; give each end its own")
            return DgramUnixSpec(place, options, local, remote)
        case "udp":
            return _udp(place, rest, _Keys(words, "dgram", ()), legacy=False)
        case "mcast":
            return _mcast(place, rest, _Keys(words, "dgram", ("local",)), legacy=False)
        case _:
            raise _unknown("kind of dgram", family, ("unix", "udp", "mcast"))


def _udp(place: str, rest: str, keys: _Keys, *, legacy: bool) -> DgramUdpSpec:
    form = f"{'socket' if legacy else 'dgram'}:udp:LHOST:LPORT:RHOST:RPORT"
    local, remote = values.host_ports(form, rest, pairs=2, ipv4_only="dgram:udp" if legacy else None)
    if local == remote:
        raise ValueError("the local and the remote address are the same; give each end its own port")
    return DgramUdpSpec(place, keys.options(), local, remote, legacy)


def _mcast(place: str, rest: str, keys: _Keys, *, legacy: bool) -> DgramMcastSpec:
    form = f"{'socket' if legacy else 'dgram'}:mcast:GROUP:PORT"
    group, port = values.multicast_group(form, rest)
    return DgramMcastSpec(place, keys.options(), group, port, keys.value("local", values.ipv4), legacy)


def _tap(place: str, where: str, words: list[str]) -> TapSpec:
    keys = _Keys(words, "tap", ("addr", "bridge", "netns", "owner", "mtu", "offloads"))
    return TapSpec(
        place,
        keys.options(),
        values.device_name("the interface", where),
        addresses=keys.values("addr", values.cidr),
        bridge=keys.value("bridge", values.device_name),
        netns=keys.value("netns", values.netns_name),
        owner=keys.value("owner", values.user),
        mtu=keys.value("mtu", values.number(*_TAP_MTU)),
        offloads=keys.on("offloads"),
    )


def _tun(place: str, where: str, words: list[str]) -> TunSpec:
    keys = _Keys(words, "tun", ("addr", "peer", "netns", "owner", "mtu", "pi"))
    return TunSpec(
        place,
        keys.options(),
        values.device_name("the interface", where),
        addresses=_one_per_version("addr", keys.values("addr", values.address)),
        peers=_one_per_version("peer", keys.values("peer", values.address)),
        netns=keys.value("netns", values.netns_name),
        owner=keys.value("owner", values.user),
        mtu=keys.value("mtu", values.number(*_TUN_MTU)),
        packet_info=keys.flag("pi"),
    )


def _unit(place: str, where: str, words: list[str]) -> UnitSpec:
    keys = _Keys(words, "unit", ("addr", "peer", "header", "mtu", "mode", "family"))
    values.unix_address("the path of its errors, PATH.errors,", f"{where}.errors")
    return UnitSpec(
        place,
        keys.options(),
        values.unix_address("the socket's path", where),
        addresses=_one_per_version("addr", keys.values("addr", values.address)),
        peers=_one_per_version("peer", keys.values("peer", values.address)),
        header=keys.value("header", values.one_of(HEADERS)) or "none",
        mtu=keys.value("mtu", values.number(*_UNIT_MTU)),
        mode=keys.value("mode", values.one_of(_MODES)),
        family=keys.value("family", values.one_of(SYSTEMS)) or "netbsd",
    )


def _vhost_user(place: str, where: str, words: list[str]) -> VhostUserSpec:
    keys = _Keys(words, "vhost-user", ("dial", "queues", "packed", "offloads", "busy-poll", "mtu"))
    return VhostUserSpec(
        place,
        keys.options(),
        values.unix_address("the socket's path", where),
        dial=keys.flag("dial"),
        queues=keys.value("queues", values.number(*_VHOST_QUEUES)) or 1,
        packed=keys.on("packed"),
        offloads=keys.on("offloads"),
        busy_poll=keys.value("busy-poll", values.number(*_BUSY_POLL)) or 0,
        mtu=keys.value("mtu", values.number(*_VHOST_MTU)),
    )


def _vde(place: str, where: str, words: list[str]) -> VdeSpec:
    keys = _Keys(words, "vde", ("mode", "group"))
    values.unix_address("the path of its control socket, DIR/ctl,", f"{where}/ctl")
    if where.startswith("@"):
        raise ValueError(f"{where!r} is an abstract name; a VDE switch has a directory, e.g. /tmp/vde.ctl")
    options = keys.options()
    if options.mac is not None:
        raise ValueError("a VDE switch takes many guests but mac= allows only one address; leave it out")
    return VdeSpec(
        place,
        options,
        where,
        mode=keys.value("mode", values.file_mode),
        group=keys.value("group", values.group),
    )


_Parser = Callable[[str, str, list[str]], PortSpec]
_KINDS: Final[dict[str, tuple[str, _Parser]]] = {
    "stream": ("stream:unix:PATH or stream:tcp:HOST:PORT", _stream),
    "dgram": ("dgram:unix:LOCAL:REMOTE, dgram:udp:LHOST:LPORT:RHOST:RPORT or dgram:mcast:GROUP:PORT", _dgram),
    "socket": (
        "socket:listen:HOST:PORT, socket:connect:HOST:PORT, socket:udp:… or socket:mcast:GROUP:PORT",
        _socket,
    ),
    "vhost-user": ("vhost-user:PATH", _vhost_user),
    "vde": ("vde:DIR", _vde),
    "tap": ("tap:IFNAME", _tap),
    "tun": ("tun:IFNAME", _tun),
    "unit": ("unit:PATH", _unit),
}
PORT_KINDS: Final = frozenset(_KINDS)


def _checked(spec: StreamSpec) -> StreamSpec:
    if spec.multi and spec.dial:
        verb = "socket:connect" if spec.legacy else "'dial'"
        raise ValueError(f"'multi' is for ports that listen, {verb} is not; leave one out")
    if spec.multi and spec.options.mac is not None:
        raise ValueError("'multi' takes many guests but mac= allows only one address; leave one out")
    return spec


def _one_per_version(key: str, found: tuple[Address, ...]) -> tuple[Address, ...]:
    if len({address.version for address in found}) < len(found):
        raise ValueError(
            f"{key!r} is given twice for one IP version; give at most one IPv4 and one IPv6 address"
        )
    return found


def _split_commas(text: str) -> list[str]:
    """Split at single commas; two in a row are one comma of the value (QEMU util/qemu-option.c)."""
    words, at = [""], 0
    while at < len(text):
        if text[at] != ",":
            words[-1] += text[at]
        elif text[at + 1 : at + 2] == ",":
            words[-1] += ","
            at += 1
        else:
            words.append("")
        at += 1
    return words


def _unknown(what: str, word: str, known: tuple[str, ...]) -> ValueError:
    near = get_close_matches(word, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    return ValueError(f"{word!r} is no {what}; {hint}")


def _format_options(options: PortOptions) -> list[str]:
    mac = None if options.mac is None else options.mac.hex(":")
    words = _pairs(
        ("name", options.name),
        ("mac", mac),
        ("queue", options.queue),
        ("queue-bytes", options.queue_bytes),
        ("rate", None if options.rate is None else rates.short(options.rate)),
        ("burst", None if options.burst is None else rates.short(options.burst)),
        *options.impairment.settings().items(),
    )
    return [*words, "isolated"] if options.isolated else words


def _pairs(*pairs: tuple[str, str | int | None]) -> list[str]:
    return [f"{key}={value}" for key, value in pairs if value is not None]
