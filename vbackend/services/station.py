"""The shell around `core.Core`: one channel port, the clock, timers, and queries to other name servers.

    station = Station(backend, "lan-services", mac, addresses, services, segment="lan")
    await station.start()
    lease = await station.wait_for_lease(mac="52:54:00:00:00:01")
    await station.stop()

Rule: a turn of the loop handles one batch of frames, so a flood of them does not keep the others waiting.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from vbackend.errors import ConfigError
from vbackend.ports.channel import Channel
from vbackend.services.config import DnsConfig, Interface, Services
from vbackend.services.core import Core, Turn
from vbackend.services.dhcp4 import LeaseEvent
from vbackend.services.dns import Forward
from vbackend.services.forward import RESOLV_CONF, Forwarder, MakeSocket, parse_resolv_conf
from vbackend.services.leases import Lease
from vbackend.services.snapshot import StationSnapshot
from vbackend.services.stack import Datagram
from vbackend.services.wire import Address

__all__ = ["Ports", "Station"]

log = logging.getLogger(__name__)


class Ports(Protocol):
    """What a station needs of a `Backend`."""

    async def open_channel(self, name: str, *, segment: str | None = None) -> Channel: ...
    async def remove_port(self, name: str) -> None: ...


class Station:
    """`segment`: the switch it is on, None: the backend's only one. `name`: its port's. `leases`: what `leases_json`
    of an earlier one said. `make_socket`: see `Forwarder`. ConfigError: the services make no sense."""

    def __init__(
        self,
        ports: Ports,
        name: str,
        mac: bytes,
        addresses: Sequence[Interface],
        services: Services,
        *,
        segment: str | None = None,
        leases: str | None = None,
        make_socket: MakeSocket | None = None,
    ) -> None:
        self.name: Final = name
        self._ports = ports
        self._segment = segment
        self._forwarder = _forwarder(services.dns, [one.ip for one in addresses], make_socket)
        self._core = Core(
            name,
            mac,
            addresses,
            services,
            random=random.random,
            now=time.monotonic(),
            may_forward=self._forwarder.check_room,
        )
        if leases is not None and self._core.dhcp4 is not None:
            self._core.dhcp4.leases.load(leases, time.time())
        self._channel: Channel | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._replan = asyncio.Event()
        self._planned: float | None = None  # when the next advertisement leaves
        self._callbacks: list[Callable[[LeaseEvent], None]] = []

    async def start(self) -> None:
        """The station is on the segment when this returns. Errors as `Backend.open_channel`."""
        if self._channel is not None:
            raise ConfigError(f"station {self.name!r} is started already; stop it first")
        self._channel = await self._ports.open_channel(self.name, segment=self._segment)
        self._spawn(self._receive(self._channel))
        if self._core.advertisement_due is not None:
            self._spawn(self._advertise(self._channel))

    async def stop(self) -> None:
        """Tell hosts that the router is gone, and take the port away; a second call does nothing."""
        channel, self._channel = self._channel, None
        if channel is None:
            return
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._core.advertisement_due is not None:
            await self._send(channel, self._core.advertisement(time.monotonic(), final=True))
        channel.close()
        with suppress(ConfigError):  # the backend may have stopped before
            await self._ports.remove_port(self.name)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def snapshot(self) -> StationSnapshot:
        return self._core.snapshot(self._forwarder.waiting)

    def leases_json(self) -> str:
        """All leases, for the next station in this one's place; "[]" without DHCP."""
        return "[]" if self._core.dhcp4 is None else self._core.dhcp4.leases.to_json()

    def subscribe(self, callback: Callable[[LeaseEvent], None]) -> Callable[[], None]:
        """Call `callback` for whatever a client does to a lease, on the loop's thread; returns what ends it.

        That a lease is over because its time is, is not told.
        """
        self._callbacks.append(callback)

        def unsubscribe() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return unsubscribe

    async def wait_for_lease(self, *, mac: str | None = None, hostname: str | None = None) -> Lease:
        """The lease a client has or gets; without `mac` and `hostname` anybody's. The caller limits the time.

        `mac`: "52:54:00:00:00:01". `hostname`: without domain. ConfigError: there is no DHCP.
        """
        if self._core.dhcp4 is None:
            raise ConfigError(f"station {self.name!r} has no DHCP, so nobody gets a lease; give it dhcp")

        def matches(lease: Lease) -> bool:
            return (mac is None or mac.lower() == lease.mac) and (
                hostname is None or hostname.lower() == lease.hostname
            )

        for lease in self._core.dhcp4.leases.active(time.time()):
            if matches(lease):
                return lease
        given: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()

        def look(event: LeaseEvent) -> None:
            if event.name in ("given", "renewed") and matches(event.lease) and not given.done():
                given.set_result(event.lease)

        unsubscribe = self.subscribe(look)
        try:
            return await given
        finally:
            unsubscribe()

    async def _receive(self, channel: Channel) -> None:
        while (frame := await channel.recv()) is not None:
            try:
                more = channel.recv_ready()
            except OSError:  # the port was removed
                more = []
            for one in (frame, *more):
                await self._carry_out(channel, self._core.receive(one, time.monotonic(), time.time()))
            await asyncio.sleep(0)

    async def _carry_out(self, channel: Channel, turn: Turn) -> None:
        if turn.frame is not None:
            await self._send(channel, turn.frame)
        if turn.forward is not None:
            self._spawn(self._ask(channel, *turn.forward))
            await asyncio.sleep(0)  # it is among those that wait before the next one is looked at
        if turn.event is not None:
            for callback in list(self._callbacks):
                callback(turn.event)
        if self._core.advertisement_due != self._planned:
            self._replan.set()

    async def _ask(self, channel: Channel, request: Datagram, forward: Forward) -> None:
        answer = await self._forwarder.ask(forward)
        await self._send(channel, self._core.forwarded(request, forward, answer))

    async def _advertise(self, channel: Channel) -> None:
        while (due := self._core.advertisement_due) is not None:
            self._replan.clear()
            self._planned = due
            wait = due - time.monotonic()
            if wait <= 0:
                await self._send(channel, self._core.advertisement(time.monotonic()))
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._replan.wait()

    async def _send(self, channel: Channel, frame: bytes) -> None:
        try:
            taken = await channel.send(frame)
        except OSError:  # the port was removed
            taken = False
        self._core.sent(taken)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("station %s: %s", self.name, error, exc_info=error)


def _forwarder(config: DnsConfig | None, own: Sequence[Address], make_socket: MakeSocket | None) -> Forwarder:
    if config is None or not config.forward:
        return Forwarder((), make_socket)
    servers = config.servers
    if servers is None:
        try:
            servers = parse_resolv_conf(Path(RESOLV_CONF).read_text("utf-8", "replace"))
        except OSError as error:
            log.warning("read %s: %s; only names of the lab are known", RESOLV_CONF, error.strerror)
            servers = ()
    return Forwarder([one for one in servers if one[0] not in own], make_socket)
