"""A link of a running lab, for tests: a cable, or the place of one end on a switch.

*Forward* is from a cable's first end to its second, and from an end to its switch.
"""

import base64
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final, Literal, SupportsBytes

from pydantic import JsonValue

from vbackend.errors import ConfigError
from vbackend.lab.status import EndStatus, LinkStatus
from vbackend.ports.rates import read_burst, read_rate
from vbackend.snapshot import BackendSnapshot, LaneCounters, PortSnapshot
from vbackend.testing.control import LabControl
from vbackend.testing.packets import Packet
from vbackend.testing.recorder import Recording

__all__ = ["Direction", "Link", "LinkStats", "WayStats"]

Direction = Literal["both", "forward", "back"]
Word = str | int | float | None

_NUMBERS: Final = count(1)


@dataclass(frozen=True, slots=True)
class WayStats:
    """One direction, since the test got the lab."""

    frames: int = 0  # that arrived
    bytes: int = 0
    dropped: int = 0  # with those lost
    lost: int = 0  # by impairment


@dataclass(frozen=True, slots=True)
class LinkStats:
    """Both directions. The link's numbers are their sums."""

    forward: WayStats
    back: WayStats

    @property
    def frames(self) -> int:
        return self.forward.frames + self.back.frames

    @property
    def bytes(self) -> int:
        return self.forward.bytes + self.back.bytes

    @property
    def dropped(self) -> int:
        return self.forward.dropped + self.back.dropped

    @property
    def lost(self) -> int:
        return self.forward.lost + self.back.lost


class Link:
    """One link, by the title it has in `vbackend ps`: "core", "lan/r1:eth0"."""

    def __init__(self, title: str, control: LabControl, before: BackendSnapshot, folder: Path) -> None:
        """`before`: what is not to be counted; `folder`: for captures."""
        self.title: Final = title
        self._control: Final = control
        self._before: Final = {port.name: port for port in before.ports}
        self._folder: Final = folder
        self._changed = False

    def down(self) -> None:
        """Cut it. The ends of a cable lose their carrier, unless it has carrier = false; on a switch they keep it."""
        self._set_up(False)

    def up(self) -> None:
        """Join it again."""
        self._set_up(True)

    def impair(self, direction: Direction = "both", **words: Word) -> None:
        """Change what the link does to its frames, with the words of the lab file: loss=0.05, seed=7, delay="50ms".

        What is not named stays as it is; None ends it. On a switch only the way to the end, "back", can be impaired.
        ConfigError: no such word or value.
        """
        given = {key: None if value is None else str(value) for key, value in words.items()}
        link = self._status
        if link.kind == "switch":
            if direction == "forward":
                raise ConfigError(f"link {self.title!r}: what goes to a switch cannot be impaired")
            self._set_port(link.ends[0], given)
            return
        self._set_cable(
            {way: _changed(end.impair, given) for way, end in _ways(link) if direction in ("both", way)}
        )

    def restore(self) -> None:
        """On a switch: up, and impaired as it was when the test got the lab. A cable's state is that of the lab."""
        link = self._status
        if self._changed and link.kind == "switch":
            name = link.ends[0].name
            self._control.execute(
                "port-set", {"name": name, "up": True, **_words(_settings(self._before.get(name)))}
            )
        self._changed = False

    @property
    def stats(self) -> LinkStats:
        """What crossed it since the test got the lab."""
        link, now = self._status, {port.name: port for port in self._control.snapshot().ports}

        def way(end: EndStatus, lane: Literal["rx", "tx"]) -> WayStats:
            port, before = now[end.name], self._before.get(end.name)
            return _since(getattr(port, lane), LaneCounters() if before is None else getattr(before, lane))

        if link.kind == "switch":
            return LinkStats(way(link.ends[0], "rx"), way(link.ends[0], "tx"))
        return LinkStats(way(link.ends[1], "tx"), way(link.ends[0], "tx"))

    def capture(self, filter: str | None = None) -> Recording:
        """Capture from now on: `with link.capture("icmp") as recording: ...`.

        Its packets have what became of them; lost ones are among them. ConfigError: no filter expression.
        """
        path = self._folder / f"capture-{next(_NUMBERS)}.pcapng"
        return Recording(self._control, path, links=[self.title], filter=filter)

    def expect(self, filter: str, timeout: float = 5.0) -> Packet:
        """The next frame that libpcap's filter expression matches, from now on; see `capture` for earlier ones.

        AssertionError: none within `timeout` seconds.
        """
        with self.capture() as recording:
            return recording.expect(filter, timeout)

    def inject(self, frame: SupportsBytes, *, toward: str) -> None:
        """Send a frame over the link to one of its ends ("r2:eth1"), or to the switch, as if the other had sent it."""
        link = self._status
        others = [end.name for end in link.ends if end.name != toward]
        known = [end.name for end in link.ends]
        if link.kind == "switch":
            others, known = known, [self.title.partition("/")[0]]
        if toward not in known:
            raise ConfigError(f"link {self.title!r}: no way to {toward!r}; there is {' and '.join(known)}")
        words: dict[str, JsonValue] = {"port": others[0], "frame": base64.b64encode(bytes(frame)).decode()}
        self._control.execute("frame-inject", words)

    @property
    def _status(self) -> LinkStatus:
        links = {link.title: link for link in self._control.status().links}
        if self.title not in links:
            raise ConfigError(f"there is no link {self.title!r}; there are {', '.join(links) or 'none'}")
        return links[self.title]

    def _set_up(self, up: bool) -> None:
        link = self._status
        self._changed = True
        if link.kind == "switch":
            self._control.execute("port-set", {"name": link.ends[0].name, "up": up})
        else:
            self._control.execute("cable-set", {"cable": self.title, "up": up})

    def _set_cable(self, ways: dict[str, dict[str, str]]) -> None:
        self._changed = True
        changes: dict[str, JsonValue] = {way: dict(words) for way, words in ways.items()}
        self._control.execute("cable-set", {"cable": self.title, **changes})

    def _set_port(self, end: EndStatus, given: dict[str, str | None]) -> None:
        self._changed = True
        port = next(port for port in self._control.snapshot().ports if port.name == end.name)
        self._control.execute("port-set", {"name": end.name, **_words(_changed(_settings(port), given))})

    def __repr__(self) -> str:
        return f"<Link {self.title} of lab {self._control.name}>"


def _ways(link: LinkStatus) -> tuple[tuple[Literal["forward", "back"], EndStatus], ...]:
    """Each direction of a cable, with the end whose port has its impairments: the one that it leads to."""
    return ("forward", link.ends[1]), ("back", link.ends[0])


def _changed(present: dict[str, str], given: dict[str, str | None]) -> dict[str, str]:
    return {key: value for key, value in {**present, **given}.items() if value is not None}


def _settings(port: PortSnapshot | None) -> dict[str, str]:
    """What a port does to frames, in the words of the lab file."""
    if port is None:
        return {}
    limits = {"rate": port.rate, "burst": port.burst, "queue": port.queue_frames}
    words = {} if port.impairment is None else port.impairment.settings
    return {**words, **{key: str(limit) for key, limit in limits.items() if limit is not None}}


def _words(settings: dict[str, str]) -> dict[str, JsonValue]:
    """The same as arguments of port-set: nothing but this."""
    words: dict[str, JsonValue] = {"impair": "off", "rate": 0, **settings}
    try:
        for key, read in (("rate", read_rate), ("burst", read_burst)):
            if key in settings:
                words[key] = read(key, settings[key])
        if "queue" in settings:
            words["queue"] = int(settings["queue"])
    except ValueError as error:
        raise ConfigError(f"impair: {error}") from None
    return words


def _since(now: LaneCounters, before: LaneCounters) -> WayStats:
    """A port that was opened anew counts from nothing."""
    if now.frames_in < before.frames_in:
        before = LaneCounters()
    return WayStats(
        frames=now.frames_out - before.frames_out,
        bytes=now.bytes_out - before.bytes_out,
        dropped=now.dropped - before.dropped,
        lost=now.drops.get("loss", 0) - before.drops.get("loss", 0),
    )
