"""The captures that run on one backend: what each is of, where its stream is offered, when all must end."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from vbackend.capture.filter import Instruction, compile_filter
from vbackend.capture.links import CaptureInterface, Joined, links_of
from vbackend.capture.pcapng import Interface, LinkType, UnitLink
from vbackend.capture.session import CaptureSession, Tapped
from vbackend.dataplane import Dataplane
from vbackend.errors import ConfigError, HostError
from vbackend.ports.base import Port
from vbackend.ports.multi import ParentPort

__all__ = ["CaptureChoice", "Captures"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CaptureChoice:
    """What a capture is of. Of `links`, when they are not None, else of `ports`; empty: of all there are, also of those
    that come later."""

    ports: tuple[str, ...] = ()
    links: tuple[str, ...] | None = None
    expression: str | None = None  # in libpcap's language
    unit_link: UnitLink | None = None  # how packets of tun units begin; None: as the unit has it


class Captures:
    """Starts captures and knows those that have not ended. `ports`, `segments`: those of now."""

    def __init__(self, ports: Callable[[], Iterable[Port]], segments: Callable[[], Iterable[Joined]]) -> None:
        self._ports = ports
        self._segments = segments
        self._running: dict[asyncio.Task[None], CaptureSession] = {}
        self._made = 0

    async def start(
        self,
        dataplane: Callable[[], Dataplane],
        choice: CaptureChoice,
        *,
        beside: str,
        snaplen: int,
        count: int | None,
    ) -> str:
        """As `Backend.capture`. `dataplane` is asked again once the filter is compiled: it may be closed by then."""
        dataplane()
        plan = _Plan(choice, self._ports, self._segments, snaplen)
        plan.check()
        await plan.compile(plan.kinds(), strict=True)
        expression = choice.expression or None
        session = CaptureSession(
            dataplane(), plan.tapped, snaplen=snaplen, count=count, expression=expression
        )
        self._made += 1
        path = f"{beside}.capture-{self._made}"
        task = session.open(path)
        self._running[task] = session
        task.add_done_callback(self._done)
        return path

    def changed(self) -> None:
        """Ports came or went: captures take them up, or leave them."""
        for session in self._running.values():
            session.changed()

    def sessions(self) -> list[CaptureSession]:
        """Those that have not ended."""
        return list(self._running.values())

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("capture: ended: %s", error, exc_info=error)


class _Plan:
    """What one capture is of, by the ports of the moment."""

    def __init__(
        self,
        choice: CaptureChoice,
        ports: Callable[[], Iterable[Port]],
        segments: Callable[[], Iterable[Joined]],
        snaplen: int,
    ) -> None:
        self._choice = choice
        self._all_ports = ports
        self._segments = segments
        self._snaplen = snaplen
        self._programs: dict[LinkType, Sequence[Instruction] | None] = {}  # None: the filter fits not

    def check(self) -> None:
        """ConfigError: something that was named is not there, or there is nothing."""
        if self._choice.links is None:
            self._check_names("port", self._choice.ports, [port.name for port in self._all_ports()])
        else:
            self._check_names("link", self._choice.links, list(self._links()))
        if not self._interfaces():
            what = "port with frames of its own" if self._choice.links is None else "link"
            raise ConfigError(f"capture: there is no {what} yet; add one, or wait for a peer")

    def _check_names(self, what: str, names: Iterable[str], known: Sequence[str]) -> None:
        for name in names:
            if name not in known:
                raise ConfigError(f"there is no {what} {name!r}; there are {', '.join(known) or 'none'}")

    def kinds(self) -> set[LinkType]:
        """Link types of what there is now."""
        ports = self._ports()
        return {self._kind(ports[port]) for one in self._interfaces() for port, _ in one.taps}

    async def compile(self, kinds: Iterable[LinkType], *, strict: bool) -> None:
        """Compile the filter for these link types. ConfigError, HostError: impossible, and `strict`."""
        expression = self._choice.expression
        for kind in set(kinds) - self._programs.keys() if expression else ():
            try:
                program = await asyncio.to_thread(compile_filter, str(expression), kind, self._snaplen)
            except (ConfigError, HostError) as error:
                if strict:
                    raise
                log.warning("capture: what begins as %s joined and is left out: %s", kind.name, error)
                self._programs[kind] = None
            else:
                self._programs[kind] = program

    async def tapped(self) -> list[Tapped]:
        """What is to be captured now, as the engine knows it."""
        await self.compile(self.kinds(), strict=False)
        found, ports = [], self._ports()
        for one in self._interfaces():
            kind = self._kind(ports[one.taps[0][0]])
            lanes = [(ports[name].engine_port, lane) for name, lane in one.taps]
            program = self._programs.get(kind)
            if program is not None or not self._choice.expression:
                numbers = tuple((number, lane) for number, lane in lanes if number is not None)
                found.append(Tapped(Interface(one.name, one.description, kind), numbers, program))
        return found

    def _ports(self) -> dict[str, Port]:
        """Those with frames of their own."""
        return {port.name: port for port in self._all_ports() if port.engine_port is not None}

    def _kind(self, port: Port) -> LinkType:
        wanted = self._choice.unit_link
        link = wanted if wanted is not None and port.capture_link != "ethernet" else port.capture_link
        return LinkType[link.upper()]

    def _links(self) -> dict[str, tuple[CaptureInterface, ...]]:
        units = {port.name for port in self._all_ports() if port.capture_link != "ethernet"}
        return {link.title: link.interfaces for link in links_of(self._segments(), units)}

    def _interfaces(self) -> list[CaptureInterface]:
        """A `multi` port stands for its peers."""
        there = self._ports()
        if self._choice.links is not None:
            wanted = self._choice.links
            chosen = [both for title, both in self._links().items() if not wanted or title in wanted]
            return [one for both in chosen for one in both if all(port in there for port, _ in one.taps)]
        found: dict[str, CaptureInterface] = {}
        for port in self._all_ports():
            if not self._choice.ports or port.name in self._choice.ports:
                for one in port.peers.values() if isinstance(port, ParentPort) else [port]:
                    if one.name in there:
                        found[one.name] = CaptureInterface(one.name, one.spec.text, ((one.name, "both"),))
        return list(found.values())
