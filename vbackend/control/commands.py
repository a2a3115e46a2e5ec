"""The commands of the control socket: a table of small functions, their arguments checked by pydantic.

Not the conversation (protocol.py) and not the socket (server.py). Rule: `perform` gives a value or raises one
of vbackend's errors or `OSError`, whose text is one line for the user; anything else is a defect.
"""

import base64
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError

from vbackend.capture.pcapng import DEFAULT_SNAPLEN, UnitLink
from vbackend.control.api import ControlledBackend
from vbackend.control.protocol import version_object
from vbackend.errors import ConfigError, ControlError
from vbackend.ports.impairment import KEYS
from vbackend.ports.parse import parse_port
from vbackend.ports.rates import BURST_MAX, RATE_MAX

__all__ = [
    "COMMANDS",
    "Arguments",
    "CaptureStart",
    "Command",
    "CommandNotFoundError",
    "Desk",
    "NoArguments",
    "PortAdd",
    "PortRemove",
    "PortSet",
    "perform",
]


class CommandNotFoundError(ControlError):
    """No command has this name."""


@dataclass(frozen=True, slots=True)
class Desk:
    """What commands work on."""

    backend: ControlledBackend
    quit: Callable[[], None]  # asks for the orderly end; the reply still goes out
    path: str = ""  # of the control socket; capture sockets lie beside it
    more: "Mapping[str, Command]" = field(default_factory=dict)  # commands of whoever runs the backend

    def command(self, name: str) -> "Command | None":
        return self.more.get(name) or COMMANDS.get(name)


class Arguments(BaseModel):
    """Of one command. Names with a dash are aliases."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class NoArguments(Arguments):
    """`query-*` and `quit` take none."""


class PortAdd(Arguments):
    port: str  # KIND:WHERE[,key=value]...


class PortRemove(Arguments):
    name: str


class _ImpairmentWords(Arguments):
    """What a bad line does, as `vbackend set` has it: "50ms", "1%", "off"; also numbers, since qmp-shell makes them."""

    impair: Literal["off"] | None = None  # begin with none, not with what there is
    delay: str | int | None = None
    jitter: str | int | None = None
    overtake: str | None = None
    loss: str | float | None = None
    duplicate: str | float | None = None
    corrupt: str | float | None = None
    reorder: str | float | None = None
    seed: str | int | None = None
    hold: str | int | None = None

    def words(self) -> dict[str, str]:
        found = {key: getattr(self, key) for key in ("impair", *KEYS)}
        return {key: str(value) for key, value in found.items() if value is not None}


class PortSet(_ImpairmentWords):
    """Only what is given changes."""

    name: str
    up: bool | None = None
    queue: int | None = Field(None, ge=1, le=65_536)  # frames
    queue_bytes: int | None = Field(None, ge=69_632, le=1 << 30, alias="queue-bytes")
    rate: int | None = Field(None, ge=0, le=RATE_MAX)  # bits/s; 0: no limit
    burst: int | None = Field(None, ge=1, le=BURST_MAX)  # bytes


def _from_base64(value: object) -> object:
    return base64.b64decode(value, validate=True) if isinstance(value, str) else value


class FrameInject(Arguments):
    port: str
    frame: Annotated[bytes, BeforeValidator(_from_base64)]  # an Ethernet frame


class CaptureStart(Arguments):
    """No ports: all of them. With `links`, these instead of ports, or all of them."""

    ports: list[str] = []
    links: list[str] | None = None
    filter: str | None = None  # in libpcap's language
    snaplen: int = Field(DEFAULT_SNAPLEN, ge=1, le=DEFAULT_SNAPLEN)  # bytes kept of a packet
    count: int | None = Field(None, ge=1, le=1 << 62)  # packets until the end
    unit_link: UnitLink | None = Field(None, alias="unit-link")  # how packets of tun units begin


async def _query_status(desk: Desk, _: NoArguments) -> JsonValue:
    return desk.backend.snapshot().model_dump(mode="json")


async def _query_ports(desk: Desk, _: NoArguments) -> JsonValue:
    return [port.model_dump(mode="json") for port in desk.backend.snapshot().ports]


async def _query_segments(desk: Desk, _: NoArguments) -> JsonValue:
    return [segment.model_dump(mode="json") for segment in desk.backend.snapshot().segments]


async def _query_version(desk: Desk, _: NoArguments) -> JsonValue:
    return version_object(desk.backend.snapshot().version)


async def _query_commands(desk: Desk, _: NoArguments) -> JsonValue:
    return [{"name": name} for name in ("qmp_capabilities", *COMMANDS, *desk.more)]


async def _port_add(desk: Desk, arguments: PortAdd) -> JsonValue:
    return (await desk.backend.add_port(parse_port(arguments.port))).model_dump(mode="json")


async def _port_remove(desk: Desk, arguments: PortRemove) -> JsonValue:
    await desk.backend.remove_port(arguments.name)
    return {}


async def _port_set(desk: Desk, arguments: PortSet) -> JsonValue:
    if all(value is None for key, value in arguments if key != "name"):
        raise ConfigError(
            "port-set: nothing to change; give up, queue, queue-bytes, rate, burst or an impairment"
        )
    words = arguments.words()
    port = await desk.backend.set_port(
        arguments.name,
        up=arguments.up,
        queue_frames=arguments.queue,
        queue_bytes=arguments.queue_bytes,
        rate=arguments.rate,
        burst=arguments.burst,
        impairment=words or None,
    )
    return port.model_dump(mode="json")


async def _frame_inject(desk: Desk, arguments: FrameInject) -> JsonValue:
    desk.backend.inject(arguments.port, arguments.frame)
    return {}


async def _capture_start(desk: Desk, arguments: CaptureStart) -> JsonValue:
    if arguments.ports and arguments.links is not None:
        raise ConfigError("capture-start: ports and links are two kinds of captures; give one of them")
    path = await desk.backend.capture(
        arguments.ports,
        beside=desk.path,
        links=arguments.links,
        expression=arguments.filter,
        snaplen=arguments.snaplen,
        count=arguments.count,
        unit_link=arguments.unit_link,
    )
    return {"path": path}


async def _quit(desk: Desk, _: NoArguments) -> JsonValue:
    desk.quit()
    return {}


@dataclass(frozen=True, slots=True)
class Command:
    """What is done when a client sends it."""

    arguments: type[Arguments]
    run: Callable[[Desk, Any], Awaitable[JsonValue]]  # Any: the instance of `arguments`
    for_client: bool = False  # cancelled when the client hangs up before it is done


COMMANDS: Final[dict[str, Command]] = {
    "query-status": Command(NoArguments, _query_status),
    "query-ports": Command(NoArguments, _query_ports),
    "query-segments": Command(NoArguments, _query_segments),
    "query-version": Command(NoArguments, _query_version),
    "query-commands": Command(NoArguments, _query_commands),
    "port-add": Command(PortAdd, _port_add),
    "port-remove": Command(PortRemove, _port_remove),
    "port-set": Command(PortSet, _port_set),
    "frame-inject": Command(FrameInject, _frame_inject),
    "capture-start": Command(CaptureStart, _capture_start),
    "quit": Command(NoArguments, _quit),
}


async def perform(desk: Desk, name: str, arguments: dict[str, JsonValue]) -> JsonValue:
    """Run one command. Raises `CommandNotFoundError`, `ConfigError`, and what the backend raises."""
    command = desk.command(name)
    if command is None:
        near = get_close_matches(name, [*COMMANDS, *desk.more], n=1)
        hint = f"did you mean {near[0]!r}?" if near else "query-commands lists them"
        raise CommandNotFoundError(f"there is no command {name[:80]!r}; {hint}")
    try:
        checked = command.arguments.model_validate(arguments)
    except ValidationError as error:
        raise ConfigError(f"{name}: {_first_problem(error, command.arguments)}") from None
    return await command.run(desk, checked)


def _first_problem(error: ValidationError, model: type[Arguments]) -> str:
    first = error.errors(include_url=False)[0]
    argument = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = [field.alias or name for name, field in model.model_fields.items()]
        return f"argument {argument[:80]!r} is not known; " + (
            f"there are {', '.join(known)}" if known else "it takes none"
        )
    if first["type"] == "missing":
        return f"argument {argument!r} is missing"
    return f"argument {argument!r}: {first['msg'][:1].lower()}{first['msg'][1:]}"
