"""An outside for a namespace of our own: `slirp4netns` carries packets of its device to sockets in those we left.

From the guest: gateway tap, this namespace's kernel with its masquerade (nat.py), the device, slirp4netns's sockets.
The addresses on the device are ours, not the host's, so they collide with no network the host is in.
"""

import asyncio
import json
import logging
import os
import socket
import time
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_interface
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from vbackend.errors import ConfigError, HostError
from vbackend.host.link import Links
from vbackend.host.outside import Outside
from vbackend.host.ruleset import Forward

__all__ = ["DEVICE", "HOST_LOOPBACK", "RESOLVER", "Uplink", "command", "redirections"]

log = logging.getLogger(__name__)

DEVICE: Final = "vbuplink"
RESOLVER: Final = IPv4Address("192.0.0.3")  # what is asked here goes to the host's resolver
HOST_LOOPBACK: Final = IPv4Address("192.0.0.2")  # 127.0.0.1 of the host, where that is allowed

# A prefix for use within one host (RFC 7335; slirp4netns takes no longer one than /25). Its own IPv6 prefix, fd00::/64,
# is what people give their labs: so we have a unique local address (RFC 4193) and its router's link-local one.
_NETWORK: Final = "192.0.0.0/25"
_OURS: Final = "192.0.0.100"
_OURS_6: Final = ip_interface("fd76:6261:636b::2/128")
_GATEWAY_6: Final = IPv6Address("fe80::2")
_SOCKET: Final = "uplink.sock"
_PATIENCE_S: Final = 15.0
_DELAYS_S: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # before it is started again; the last one from then on
_LASTED_S: Final = 60.0  # after so long a run the delays begin anew
_CHATTER: Final = ("sent tapfd", "received tapfd", "WARNING: Support for", "Starting slirp", "* ")


def redirections(forwards: Sequence[Forward]) -> list[dict[str, Any]]:
    """What slirp4netns is asked, so that it listens outside. Pure.

    ConfigError: an IPv6 address, at which it does not listen, or a low port, at which only root may.
    """
    asked = []
    for forward in forwards:
        what = f"forward {forward.protocol}:{forward.port} to {forward.host}"
        if forward.port < 1024:
            raise ConfigError(f"{what}: without root only ports from 1024 on can be forwarded; run as root")
        if forward.listen is not None and forward.listen.version == 6:
            raise ConfigError(
                f"{what}: without root it listens at IPv4 only; give such an address, or run as root"
            )
        place = {"host_addr": str(forward.listen or "0.0.0.0"), "host_port": forward.port}
        inside = {"guest_addr": _OURS, "guest_port": forward.port}
        asked.append({"execute": "add_hostfwd", "arguments": {"proto": forward.protocol, **place, **inside}})
    return asked


def command(pid: int, control: Path | None, *, host_loopback: bool) -> list[str]:
    """slirp4netns for the namespace of process `pid`; killed with whoever starts it. `control`: its socket. Pure."""
    return [
        *("setpriv", "--pdeathsig", "KILL", "--"),
        *(
            "slirp4netns",
            "--configure",
            "--enable-ipv6",
            "--enable-seccomp",
            "--mtu=65520",
            f"--cidr={_NETWORK}",
        ),
        *([] if host_loopback else ["--disable-host-loopback"]),
        *([] if control is None else [f"--api-socket={control}"]),
        *(f"--userns-path=/proc/{pid}/ns/user", str(pid), DEVICE),
    ]


class Uplink:
    """The uplink of this process's namespace. `start` and `stop`, or `async with`; restarted when it ends."""

    def __init__(
        self,
        outside: Outside,
        folder: Path,
        *,
        forwards: Sequence[Forward] = (),
        host_loopback: bool = False,
    ) -> None:
        """`folder`: for a socket. `forwards`: for whose ports to listen outside. `host_loopback`: HOST_LOOPBACK leads
        to the host's 127.0.0.1.

        ConfigError: ports that cannot be had.
        """
        self.trouble: str | None = None  # why there is no uplink at the moment
        self._outside = outside
        self._redirections = redirections(forwards)
        self._control = folder / _SOCKET if forwards else None
        self._command = command(os.getpid(), self._control, host_loopback=host_loopback)
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when packets have a way. HostError: slirp4netns is missing, or a port is taken."""
        ended = await self._run()
        self._watch = asyncio.create_task(self._keep_up(ended))

    async def stop(self) -> None:
        """End it; a second call does nothing."""
        watch, self._watch = self._watch, None
        if watch is None:
            return
        watch.cancel()
        await asyncio.wait((watch,))
        await self._end()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _run(self) -> "asyncio.Future[str]":
        self._clear()
        try:
            ended = await self._outside.run(self._command)
        except HostError as error:
            raise HostError(f"cannot give the lab an uplink: {error}") from error
        try:
            deadline = time.monotonic() + _PATIENCE_S
            while not await asyncio.to_thread(_set_up, self._outside.has_ipv6):
                if ended.done():
                    raise HostError(f"cannot give the lab an uplink: {_advice(ended.result())}")
                if time.monotonic() > deadline:
                    raise HostError(
                        f"cannot give the lab an uplink: slirp4netns made no route in {_PATIENCE_S:.0f} s"
                    )
                await asyncio.wait((ended,), timeout=0.02)
            if self._control is not None:
                await asyncio.to_thread(_redirect, self._control, self._redirections)
        except BaseException:
            await self._end()
            raise
        return ended

    async def _end(self) -> None:
        await self._outside.stop()
        self._clear()

    def _clear(self) -> None:
        if self._control is not None:
            self._control.unlink(missing_ok=True)

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
                except (HostError, OSError) as error:
                    self.trouble = str(error)


def _set_up(has_ipv6: bool) -> bool:
    """Add IPv6 to the device as soon as slirp4netns has made its IPv4 route; whether it has.

    Without IPv6 outside there must be no route: what slirp4netns says of that, from a link-local address, would not
    reach the guests, and they would wait.
    """
    with Links() as links:
        if DEVICE not in links.routed(4)[0]:
            return False
        if has_ipv6:
            device = links.get(DEVICE)
            links.add_address(device, _OURS_6)
            links.add_default_route(device, _GATEWAY_6)
    return True


def _redirect(control: Path, asked: Sequence[dict[str, Any]]) -> None:
    """One request a connection, as slirp4netns has it. HostError: it refuses one."""
    for request in asked:
        told = request["arguments"]
        what = f"forward {told['proto']}:{told['host_addr']}:{told['host_port']}"
        try:
            with socket.socket(socket.AF_UNIX) as wire:
                wire.settimeout(_PATIENCE_S)
                wire.connect(str(control))
                wire.sendall(json.dumps(request).encode())
                wire.shutdown(socket.SHUT_WR)
                answer = json.loads(wire.recv(4096))
        except (OSError, ValueError) as error:
            raise HostError(f"cannot {what}: slirp4netns at {control}: {error}") from error
        if "error" in answer:
            raise HostError(
                f"cannot {what}: slirp4netns: {answer['error'].get('desc')}; see `ss -lntup` for who has the port"
            )


def _advice(words: str) -> str:
    """What to say about the last words of slirp4netns."""
    said = "; ".join(line for line in words.splitlines() if not line.startswith(_CHATTER))
    if "failed to execute" in said:
        return "there is no slirp4netns; apt install slirp4netns (Debian)"
    return f"slirp4netns: {said}"
