"""What a bad line does to the frames for a port's peer, and how that is written. Pure.

    delay=50ms jitter=5ms loss=1% duplicate=0.1% corrupt=0.1% reorder=1% seed=7

Times are whole microseconds, probabilities from 0 to 1. What it means, frame by frame, is in the engine
(`native/proto/src/impair/mod.rs`); `changed` reads the words above, `settings` writes them, and they agree.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from typing import Any, Final

from vbackend.ports.rates import read_size, short

__all__ = [
    "KEYS",
    "NO_IMPAIRMENT",
    "Gilbert",
    "Impairment",
    "changed_impairment",
    "check_word",
    "format_duration",
    "read_duration",
    "read_loss",
    "read_probability",
]

DURATION_MAX: Final = 3_600_000_000  # µs, an hour
SEED_MAX: Final = 2**64 - 1
HOLD_DEFAULT: Final = 1 << 26  # bytes; 100 ms of 5 Gbit/s
HOLD_LEAST: Final = 1 << 17  # a frame of the longest kind, twice
HOLD_MAX: Final = 1 << 32
_FRAMES_LEAST: Final = 1 << 18  # frames; 100 ms of the shortest ones at 1 Gbit/s

_UNITS: Final = {"us": 1, "ms": 1_000, "s": 1_000_000, "min": 60_000_000, "h": 3_600_000_000}
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,12})?)(us|ms|s|min|h)", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,30})?(?:e-[0-9]{1,3})?", re.ASCII)
_GILBERT: Final = "gilbert"
_PERCENT_MAX: Final = 24  # characters


@dataclass(frozen=True, slots=True)
class Gilbert:
    """Losses in bursts (Gilbert-Elliott, netem's `gemodel`): a line that is good or bad by turns."""

    p: float  # from good to bad, after a frame
    r: float  # from bad to good, after a frame: 1/r frames in the mean
    bad: float = 1.0  # 1-h: of loss while it is bad
    good: float = 0.0  # 1-k: of loss while it is good

    def __post_init__(self) -> None:
        for probability in (self.p, self.r, self.bad, self.good):
            _check_probability("loss", probability)


@dataclass(frozen=True, slots=True)
class Impairment:
    """ValueError: a value out of its range, or some that make no sense together."""

    delay: int = 0  # µs
    jitter: int = 0  # µs more or less, uniformly
    overtake: bool = False  # jitter lets frames overtake each other
    loss: float | Gilbert = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0  # one bit flipped, behind the Ethernet header
    reorder: float = 0.0  # sent at once while others are delayed
    seed: int | None = None  # None: one is picked
    hold: int = HOLD_DEFAULT  # bytes that may be on their way

    def __post_init__(self) -> None:
        for name in ("delay", "jitter"):
            if not 0 <= getattr(self, name) <= DURATION_MAX:
                raise ValueError(f"{name} is {getattr(self, name)} µs; give up to an hour")
        for name in ("duplicate", "corrupt", "reorder"):
            _check_probability(name, getattr(self, name))
        if not isinstance(self.loss, Gilbert):
            _check_probability("loss", self.loss)
        if self.seed is not None and not 0 <= self.seed <= SEED_MAX:
            raise ValueError(f"seed is {self.seed}; give a number from 0 to {SEED_MAX}")
        if not HOLD_LEAST <= self.hold <= HOLD_MAX:
            raise ValueError(f"hold is {self.hold} bytes; give {HOLD_LEAST} to {HOLD_MAX}")
        if self.jitter > self.delay:
            raise ValueError(
                f"jitter ({format_duration(self.jitter)}) exceeds delay ({format_duration(self.delay)}): no frame "
                "arrives before it was sent; give a longer delay"
            )
        if self.reorder and not self.delay:
            raise ValueError("reorder is of no use without a delay; give one too, e.g. delay=10ms")
        if self.overtake and not self.jitter:
            raise ValueError("overtake is of no use without a jitter; give one too, e.g. jitter=5ms")

    @property
    def is_off(self) -> bool:
        """Whether frames arrive as they are sent."""
        return not (self.delay or self.loss or self.duplicate or self.corrupt)

    @property
    def hold_frames(self) -> int:
        """Frames that may be on their way."""
        return max(_FRAMES_LEAST, self.hold // 256)

    def changed(self, words: Mapping[str, str]) -> "Impairment":
        """This one with other values, by their names; "off" ends one. ValueError: an unknown name, a bad value."""
        values: dict[str, Any] = {}
        for key, text in words.items():
            if key not in KEYS:
                raise ValueError(f"{key!r} is no impairment; there are {', '.join(KEYS)}")
            values[key] = _value(key, text)
        return replace(self, **values)

    def settings(self) -> dict[str, str]:
        """What `changed` makes this of `Impairment()`: values that are not the default ones, as text."""
        found = {}
        for key in KEYS:
            value = getattr(self, key)
            if value != _DEFAULTS[key]:
                found[key] = _text(key, value)
        return found


def changed_impairment(present: Impairment, words: Mapping[str, str]) -> Impairment:
    """`Impairment.changed`, of none with {"impair": "off"} among the words. A seed that was picked stays with the rest.

    ValueError as there, and when `impair` is anything else than "off".
    """
    rest = {key: text for key, text in words.items() if key != "impair"}
    if words.get("impair", "off") != "off":
        raise ValueError(f"impair is {words['impair']!r}; give off, or what is to happen, e.g. loss=1%")
    return (NO_IMPAIRMENT if "impair" in words else present).changed(rest)


def check_word(key: str, text: str) -> None:
    """Whether a word of `changed_impairment` could be good, whatever the others are. ValueError: it could not."""
    if key in KEYS:
        _value(key, text)
    else:
        changed_impairment(NO_IMPAIRMENT, {key: text})


def read_duration(what: str, text: str) -> int:
    """Microseconds, e.g. 200us, 50ms, 1.5s, 1h. ValueError: no time, longer than an hour, a part of a microsecond."""
    match = _DURATION.fullmatch(text)
    found = Decimal(0) if match is None else Decimal(match[1]) * _UNITS[match[2]]
    if (match is None and text != "0") or found > DURATION_MAX or found != int(found):
        raise ValueError(f"{what} is {text!r}; give a time such as 200us, 50ms or 1.5s, at most 1h")
    return int(found)


def format_duration(us: int) -> str:
    """As `read_duration` takes it, exactly and in few characters: 1500000 is 1.5s."""
    if not us:
        return "0"
    scaled = {name: Decimal(us) / unit for name, unit in _UNITS.items()}
    exact = (f"{value.normalize():f}{name}" for name, value in scaled.items() if value * _UNITS[name] == us)
    return min(exact, key=len)


def read_probability(what: str, text: str) -> float:
    """From 0 to 1, or 0% to 100%. ValueError: it is neither."""
    number = text.removesuffix("%")
    found = Decimal(2)
    if _NUMBER.fullmatch(number):
        found = Decimal(number) / (100 if text.endswith("%") else 1)
    if found > 1:
        raise ValueError(f"{what} is {text!r}; give a probability such as 1% or 0.01, at most 100%")
    return float(found)


def read_loss(what: str, text: str) -> float | Gilbert:
    """A probability, or gilbert:p=1%,r=10%[,1-h=80%][,1-k=0.1%], also with colons for the commas. ValueError."""
    name, colon, rest = text.partition(":")
    if name != _GILBERT:
        return read_probability(what, text)
    form = f"{what}={_GILBERT}:p=1%,r=10%, and 1-h= and 1-k= if wanted"
    values: dict[str, float] = {}
    for word in re.split("[,:]", rest) if colon else []:
        key, equals, value = word.partition("=")
        field = {"p": "p", "r": "r", "1-h": "bad", "1-k": "good"}.get(key)
        if field is None or not equals or field in values:
            raise ValueError(f"{what} is {text!r}; write {form}")
        values[field] = read_probability(f"{key} of {what}", value)
    if not {"p", "r"} <= values.keys():
        raise ValueError(f"{what} is {text!r}; write {form}")
    return Gilbert(**values)


def _value(key: str, text: str) -> object:
    return _DEFAULTS[key] if text == "off" else _READERS[key](key, text)


def _read_switch(what: str, text: str) -> bool:
    if text != "on":
        raise ValueError(f"{what} is {text!r}; give on or off")
    return True


def _read_seed(what: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and int(text) <= SEED_MAX):
        raise ValueError(f"{what} is {text!r}; give a number from 0 to {SEED_MAX}")
    return int(text)


def _read_hold(what: str, text: str) -> int:
    return read_size(what, text, HOLD_LEAST, HOLD_MAX)


def _percent(value: float) -> str:
    percent = f"{(Decimal(repr(value)) * 100).normalize():f}%"
    return percent if len(percent) <= _PERCENT_MAX else repr(value)


def _text(key: str, value: Any) -> str:
    match value:
        case Gilbert():
            words = [f"p={_percent(value.p)}", f"r={_percent(value.r)}"]
            words += [f"1-h={_percent(value.bad)}"] if value.bad != 1 else []
            words += [f"1-k={_percent(value.good)}"] if value.good else []
            return f"{_GILBERT}:{','.join(words)}"
        case bool():
            return "on" if value else "off"
        case float():
            return _percent(value)
        case _:
            return {"delay": format_duration, "jitter": format_duration, "hold": short}.get(key, str)(value)


def _check_probability(what: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{what} is {value}; give a probability from 0 to 1")


_READERS: Final[dict[str, Callable[[str, str], object]]] = {
    "delay": read_duration,
    "jitter": read_duration,
    "overtake": _read_switch,
    "loss": read_loss,
    "duplicate": read_probability,
    "corrupt": read_probability,
    "reorder": read_probability,
    "seed": _read_seed,
    "hold": _read_hold,
}
KEYS: Final = tuple(_READERS)
NO_IMPAIRMENT: Final = Impairment()
_DEFAULTS: Final[dict[str, object]] = {field.name: field.default for field in fields(Impairment)}
