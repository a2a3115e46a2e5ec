"""An outside for a namespace of our own: `pasta` carries packets of its device to sockets in the namespaces we left.

From the guest: gateway tap, this namespace's kernel with its masquerade (nat.py), pasta's device, pasta's sockets. The
addresses on that device are ours, not the host's, so they collide with no network the host is in.
"""

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from types import TracebackType
from typing import Final, Self

from vbackend.errors import ConfigError, HostError
from vbackend.host.link import Links
from vbackend.host.outside import Outside
from vbackend.host.ruleset import Forward

__all__ = ["DEVICE", "HOST_LOOPBACK", "RESOLVER", "Uplink", "command", "ports"]

log = logging.getLogger(__name__)

DEVICE: Final = "vbuplink"
RESOLVER: Final = IPv4Address("192.0.0.3")  # what is asked here by UDP goes to the host's first resolver
HOST_LOOPBACK: Final = IPv4Address("192.0.0.1")  # 127.0.0.1 of the host, where that is allowed

# 192.0.0.0/29 is for use within one host (RFC 7335); the IPv6 prefix is a unique local one (RFC 4193).
_OURS: Final = ("192.0.0.2", "fd76:6261:636b::2")
_GATEWAYS: Final = (str(HOST_LOOPBACK), "fd76:6261:636b::1")
_PREFIX: Final = "29"

# The pasta of Debian 12 recovers slowly from lost packets, and loses what its sockets do not take at once. So none are
# lost in front of it, and they are small.
_MTU: Final = "1500"
_QUEUE: Final = 10_000

_PATIENCE_S: Final = 15.0
_DELAYS_S: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # before it is started again; the last one from then on
_LASTED_S: Final = 60.0  # whoever ran so long is started again at once


@dataclass(frozen=True, slots=True)
class _Ports:
    tcp: tuple[str, ...]
    udp: tuple[str, ...]


def ports(forwards: Sequence[Forward]) -> _Ports:
    """Where pasta listens outside, in its words; for IPv6 only where that is asked for.

    ConfigError: a low port, which only root may listen at, or two addresses for one port, which pasta does not do.
    """
    wanted: dict[tuple[str, int], set[str]] = {}
    for forward in forwards:
        if forward.port < 1024:
            raise ConfigError(
                f"forward {forward.protocol}:{forward.port}: without root only ports from 1024 on can be forwarded"
            )
        # Who connected to ::1 would be cut off instead of refused, and not go on to try 127.0.0.1: no IPv6 unasked.
        wanted.setdefault((forward.protocol, forward.port), set()).add(str(forward.listen or "0.0.0.0"))
    told: dict[str, list[str]] = {"tcp": [], "udp": []}
    for (protocol, port), addresses in wanted.items():
        if len(addresses) > 1 and addresses != {"0.0.0.0", "::"}:
            several = " and ".join(sorted(addresses))
            raise ConfigError(
                f"forward {protocol}:{port}: without root it can have one address, not {several}"
            )
        told[protocol].append(str(port) if len(addresses) > 1 else f"{addresses.pop()}/{port}")
    return _Ports(tuple(told["tcp"]), tuple(told["udp"]))


def command(pid: int, inward: _Ports, *, host_loopback: bool) -> list[str]:
    """pasta for the namespace of process `pid`; killed with the one who starts it. Pure."""
    listening = []
    for option, wanted in (("-t", inward.tcp), ("-u", inward.udp)):
        for port in wanted or ("none",):
            listening += [option, port]
    addresses = []
    for ours, gateway in zip(_OURS, _GATEWAYS, strict=True):
        addresses += ["--address", ours, "--gateway", gateway]
    return [
        *("setpriv", "--pdeathsig", "KILL", "--"),
        *("pasta", "--foreground", "--quiet", "--config-net", "--ns-ifname", DEVICE),
        *(*addresses, "--netmask", _PREFIX, "--mtu", _MTU, "--dns-forward", str(RESOLVER)),
        *([] if host_loopback else ["--no-map-gw"]),
        *(*listening, "-T", "none", "-U", "none", str(pid)),
    ]


class Uplink:
    """The uplink of this process's namespace. `start` and `stop`, or `async with`; restarted when it ends."""

    def __init__(
        self, outside: Outside, *, forwards: Sequence[Forward] = (), host_loopback: bool = False
    ) -> None:
        """`forwards`: for whose ports to listen outside. `host_loopback`: HOST_LOOPBACK leads to the host's 127.0.0.1.

        ConfigError: ports that cannot be had.
        """
        self.trouble: str | None = None  # why there is no uplink at the moment
        self._outside = outside
        self._command = command(os.getpid(), ports(forwards), host_loopback=host_loopback)
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when packets have a way. HostError: pasta is missing, or has nothing to lead to."""
        ended = await self._run()
        self._watch = asyncio.create_task(self._keep_up(ended))

    async def stop(self) -> None:
        """End it; a second call does nothing."""
        watch, self._watch = self._watch, None
        if watch is None:
            return
        watch.cancel()
        await asyncio.wait((watch,))
        await self._outside.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _run(self) -> "asyncio.Future[str]":
        try:
            ended = await self._outside.run(self._command)
        except HostError as error:
            raise HostError(f"cannot give the lab an uplink: {error}; apt install passt (Debian)") from error
        try:
            deadline = time.monotonic() + _PATIENCE_S
            while not await asyncio.to_thread(_set_up):
                if ended.done():
                    raise HostError(f"cannot give the lab an uplink: {_advice(ended.result())}")
                if time.monotonic() > deadline:
                    raise HostError(
                        f"cannot give the lab an uplink: pasta made no route in {_PATIENCE_S:.0f} s"
                    )
                await asyncio.wait((ended,), timeout=0.02)
        except BaseException:
            await self._outside.stop()
            raise
        return ended

    async def _keep_up(self, ended: "asyncio.Future[str]") -> None:
        """Start it again whenever it ends, as long as somebody is there to do it."""
        failures = 0
        while True:
            began = time.monotonic()
            self.trouble = _advice(await asyncio.shield(ended))
            failures = 0 if time.monotonic() - began > _LASTED_S else failures
            while self.trouble is not None:
                if self._outside.is_closed:
                    log.error("the lab has no uplink any more (%s); start it again", self.trouble)
                    return
                delay = _DELAYS_S[min(failures, len(_DELAYS_S) - 1)]
                log.warning("the lab has no uplink (%s); another attempt in %.0f s", self.trouble, delay)
                await asyncio.sleep(delay)
                failures += 1
                try:
                    ended = await self._run()
                    self.trouble = None
                except HostError as error:
                    self.trouble = str(error)


def _set_up() -> bool:
    """Whether pasta has made its routes; its device has a long queue then."""
    with Links() as links:
        if not any(DEVICE in links.routed(version)[0] for version in (4, 6)):
            return False
        links.set_link(links.get(DEVICE), queue=_QUEUE)
    return True


def _advice(words: str) -> str:
    """What to say about pasta's last words."""
    lines = [
        line for line in words.splitlines() if "bytes to syslog" not in line
    ]  # it tells so where there is none
    said = "; ".join(lines)
    if "failed to execute" in said:
        return "there is no pasta; apt install passt (Debian)"
    if "xternal" in said:  # "External interface not usable", "No external routable interface for IPv4"
        return f"pasta: {said}; the host needs a default route"
    return f"pasta: {said}"
