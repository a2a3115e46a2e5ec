"""vbackend as an extcap of Wireshark: running backends, labs and their links in its list of interfaces.

Wireshark runs the program that `install` makes, several times over: which interfaces are there, how do packets begin,
what may be set, capture to this fifo. Answers are sentences on stdout, `interface {value=NAME}{display=WORDS}`, and
nothing else may be there. Source: Wireshark's doc/man_pages/extcap.adoc and doc/extcap_example.py.

Rule: what does not answer soon is not listed; Wireshark's start waits for us.
"""

import asyncio
import errno
import os
import re
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from vbackend.capture.links import UNIT_KINDS, Link, links_of_snapshot
from vbackend.capture.pcapng import DEFAULT_SNAPLEN, LinkType
from vbackend.control.client import ControlClient
from vbackend.control.place import control_path, lab_control_path, running_labs, running_names
from vbackend.errors import ConfigError, ControlError, HostError
from vbackend.snapshot import BackendSnapshot

__all__ = [
    "PROGRAM",
    "Source",
    "config_sentences",
    "dlt_sentences",
    "extcap_folders",
    "find_sources",
    "install",
    "interface_sentences",
    "open_fifo",
    "source_named",
    "sources_of",
]

PROGRAM: Final = "vbackend-extcap"
_PATIENCE_S: Final = 2.0  # for all backends together
_FIFO_S: Final = 10.0  # until Wireshark has opened its end
_FIFO_STEP_S: Final = 0.05
_DLT_NAMES: Final = {LinkType.ETHERNET: ("EN10MB", "Ethernet"), LinkType.NULL: ("NULL", "BSD loopback")}


@dataclass(frozen=True, slots=True)
class Source:
    """An interface in Wireshark's list."""

    value: str  # its name there; no character that means something in a path or a sentence
    display: str
    path: str  # of the control socket
    links: tuple[str, ...] | None = None  # None: the ports of a backend; none: all links of a lab
    link_type: LinkType = LinkType.ETHERNET


def sources_of(path: str, snapshot: BackendSnapshot, lab: str | None) -> Iterator[Source]:
    """What one running backend or lab offers."""
    if lab is None:
        yield Source(_value(snapshot.name), f"vbackend {snapshot.name}", path)
        return
    yield Source(_value("lab", lab), f"vbackend lab {lab}", path, ())
    kinds = {port.name: port.kind for port in snapshot.ports}
    taken: set[str] = set()
    for link in links_of_snapshot(snapshot):
        value = _value("lab", lab, link.title)
        while value in taken:
            value += "-again"
        taken.add(value)
        display = f"vbackend lab {lab}: {link.title}"
        yield Source(value, display, path, (link.title,), _link_type(link, kinds))


def _link_type(link: Link, kinds: Mapping[str, str]) -> LinkType:
    tapped = {kinds.get(port) for one in link.interfaces for port, _ in one.taps}
    return LinkType.NULL if tapped <= UNIT_KINDS else LinkType.ETHERNET


def _value(*parts: str) -> str:
    return "-".join(("vbackend", *(re.sub(r"[^A-Za-z0-9._]", "-", part) for part in parts)))


async def find_sources(environ: Mapping[str, str]) -> list[Source]:
    """What all backends and labs that answer offer, backends first."""
    places: list[tuple[str, str | None]] = [
        (control_path(name, None, environ), None) for name in running_names(environ)
    ]
    places += [(lab_control_path(name, environ), name) for name in running_labs(environ)]
    found = await asyncio.gather(*(_ask(path, lab) for path, lab in places))
    return [source for sources in found for source in sources]


async def _ask(path: str, lab: str | None) -> list[Source]:
    with suppress(
        ConfigError, ControlError, HostError, TimeoutError
    ):  # it ended, hangs, or is another user's
        async with asyncio.timeout(_PATIENCE_S), ControlClient(path, patience=_PATIENCE_S) as client:
            return list(sources_of(path, await client.status(), lab))
    return []


def source_named(value: str, sources: Iterable[Source]) -> Source:
    """The source that Wireshark knows as `value`. ConfigError: it has gone."""
    for source in sources:
        if source.value == value:
            return source
    raise ConfigError(f"extcap: there is no interface {value!r} any more; refresh the list of interfaces")


# Sentences


def interface_sentences(version: str, sources: Iterable[Source]) -> list[str]:
    """The answer to --extcap-interfaces."""
    first = f"extcap {{version={_words(version)}}}{{display=vbackend}}"
    return [first, *(f"interface {{value={one.value}}}{{display={_words(one.display)}}}" for one in sources)]


def dlt_sentences(source: Source) -> list[str]:
    """The answer to --extcap-dlts. The capture itself says it better: it is pcapng."""
    name, display = _DLT_NAMES[source.link_type]
    return [f"dlt {{number={source.link_type.value}}}{{name={name}}}{{display={display}}}"]


def config_sentences() -> list[str]:
    """The answer to --extcap-config, the same for all."""
    return [
        f"arg {{number=0}}{{call=--snaplen}}{{display=Bytes kept of each packet}}{{type=unsigned}}"
        f"{{range=1,{DEFAULT_SNAPLEN}}}{{default={DEFAULT_SNAPLEN}}}"
    ]


def _words(text: str) -> str:
    return re.sub(r"[{}\s]+", " ", text)


# The host


def open_fifo(path: str) -> BinaryIO:
    """Wireshark's fifo, once it reads. HostError: it does not come."""
    deadline = time.monotonic() + _FIFO_S
    while True:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise HostError(f"extcap: fifo {path}: {error.strerror}") from None
            if time.monotonic() > deadline:
                raise HostError(f"extcap: fifo {path}: nobody reads it; capture again") from None
            time.sleep(_FIFO_STEP_S)
        else:
            os.set_blocking(fd, True)
            return os.fdopen(fd, "wb")


def extcap_folders(environ: Mapping[str, str]) -> list[Path]:
    """Where Wireshark looks for the user's extcaps: the first is that of 4.2 and later, the second that before.
    Each version looks into one of them only. HostError: no home."""
    home = environ.get("HOME", "")
    if not home.startswith("/"):
        raise HostError("extcap: HOME is not set, so Wireshark's folders are nowhere; set it")
    given = environ.get("XDG_CONFIG_HOME", "")
    config = Path(given if given.startswith("/") else f"{home}/.config") / "wireshark"
    legacy = Path(home, ".wireshark")
    settings = legacy if legacy.is_dir() and not config.is_dir() else config
    return [Path(home, ".local/lib/wireshark/extcap"), settings / "extcap"]


def install(environ: Mapping[str, str]) -> list[Path]:
    """Put the program that Wireshark runs where it looks; returns its places. HostError: impossible."""
    command = [sys.executable, "-P", "-c", "from vbackend.cli.main import main; main()", "extcap"]
    text = f'#!/bin/sh\n# made by `vbackend extcap install`\nexec {shlex.join(command)} "$@"\n'
    made = []
    for folder in extcap_folders(environ):
        place, new = folder / PROGRAM, folder / f".{PROGRAM}.new"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            new.write_text(text)
            new.chmod(0o755)
            new.replace(place)
        except OSError as error:
            raise HostError(f"extcap: cannot write {place}: {error.strerror}") from None
        made.append(place)
    return made
