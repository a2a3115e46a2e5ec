"""What the control commands need of a backend: `vbackend.backend.Backend` has it, the tests' own too."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from pydantic import JsonValue

from vbackend.capture.pcapng import UnitLink
from vbackend.ports.impairment import Impairment
from vbackend.ports.spec import PortSpec
from vbackend.snapshot import BackendSnapshot, PortSnapshot

__all__ = ["ControlledBackend", "Event"]


class Event(Protocol):
    """Something that happened, as clients are told: PORT_CONNECTED, PORT_ADDED, ..."""

    @property
    def name(self) -> str: ...
    @property
    def data(self) -> Mapping[str, JsonValue]: ...
    @property
    def time(self) -> float: ...  # seconds since the epoch


class ControlledBackend(Protocol):
    """The part of a running backend that clients may see and change."""

    def snapshot(self) -> BackendSnapshot: ...
    async def add_port(self, spec: PortSpec) -> PortSnapshot: ...
    async def remove_port(self, name: str) -> None: ...
    async def set_port(
        self,
        name: str,
        *,
        up: bool | None = None,
        queue_frames: int | None = None,
        queue_bytes: int | None = None,
        rate: int | None = None,
        burst: int | None = None,
        impairment: Impairment | Mapping[str, str] | None = None,
    ) -> PortSnapshot: ...
    def inject(self, name: str, frame: bytes) -> None: ...
    async def capture(
        self,
        names: Sequence[str] = (),
        *,
        beside: str,
        links: Sequence[str] | None = None,
        expression: str | None = None,
        snaplen: int = ...,
        count: int | None = None,
        unit_link: UnitLink | None = None,
    ) -> str: ...
    def subscribe(self, callback: Callable[[Event], None]) -> Callable[[], None]: ...
