"""The captures that run on one backend: which ports each is of, where its stream is offered, when all must end."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from vbackend.capture.filter import compile_filter
from vbackend.capture.pcapng import Interface, LinkType, UnitLink
from vbackend.capture.session import CaptureSession, Tapped
from vbackend.dataplane import Dataplane
from vbackend.errors import ConfigError
from vbackend.ports.base import Port

__all__ = ["Captures"]

log = logging.getLogger(__name__)


class Captures:
    """Starts captures and knows those that have not ended."""

    def __init__(self) -> None:
        self._running: dict[asyncio.Task[None], CaptureSession] = {}
        self._made = 0

    async def start(
        self,
        dataplane: Callable[[], Dataplane],
        ports: Callable[[], Sequence[Port]],
        *,
        beside: str,
        expression: str | None,
        snaplen: int,
        count: int | None,
        unit_link: UnitLink | None,
    ) -> str:
        """As `Backend.capture`. `ports` is asked again once the filter is compiled: some may have gone meanwhile."""

        def kind_of(port: Port) -> LinkType:
            link = (
                unit_link if unit_link is not None and port.capture_link != "ethernet" else port.capture_link
            )
            return LinkType[link.upper()]

        kinds = {kind_of(port) for port in _some(ports())}
        programs = {}
        for kind in kinds if expression else ():
            programs[kind] = await asyncio.to_thread(compile_filter, str(expression), kind, snaplen)
        tapped = []
        for port in _some(ports()):
            kind = kind_of(port)
            if port.engine_port is not None and (kind in programs or not expression):
                interface = Interface(port.name, port.spec.text, kind)
                tapped.append(Tapped(port.engine_port, interface, programs.get(kind)))
        session = CaptureSession(
            dataplane(), tapped, snaplen=snaplen, count=count, expression=expression or None
        )
        self._made += 1
        path = f"{beside}.capture-{self._made}"
        task = session.open(path)
        self._running[task] = session
        task.add_done_callback(self._done)
        return path

    def sessions(self) -> list[CaptureSession]:
        """Those that have not ended."""
        return list(self._running.values())

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("capture: ended: %s", error, exc_info=error)


def _some(ports: Sequence[Port]) -> Sequence[Port]:
    if not ports:
        raise ConfigError("capture: there is no port with frames of its own yet; add one, or wait for a peer")
    return ports
