"""`vbackend set PORT up|down|queue=N|rate=BITS|delay=TIME...`: the words as port-set's arguments. Pure."""

from collections.abc import Sequence

from pydantic import JsonValue

from vbackend.errors import ConfigError
from vbackend.ports.impairment import KEYS, check_word
from vbackend.ports.rates import read_burst, read_rate

__all__ = ["parse_changes"]

_FORMS = (
    f"up, down, queue=N, queue-bytes=N, rate=BITS, rate=off, burst=BYTES, {', '.join(KEYS)}= or impair=off"
)


def parse_changes(words: Sequence[str]) -> dict[str, JsonValue]:
    """The arguments without the port's name. ConfigError: an unknown word, a bad number, one given twice."""
    changes: dict[str, JsonValue] = {}
    for word in words:
        key, value = _parse(word)
        if key in changes:
            raise ConfigError(f"change {word!r}: {key} is given twice; give it once")
        changes[key] = value
    return changes


def _parse(word: str) -> tuple[str, JsonValue]:
    match word.partition("="):
        case ("up" | "down", "", _):
            return "up", word == "up"
        case ("queue" | "queue-bytes" as key, "=", number):
            if not (number.isascii() and number.isdigit()) or len(number) > 12:
                raise ConfigError(f"change {word!r}: {number!r} is not a number; write {key}=N")
            return key, int(number)
        case ("rate", "=", "off"):
            return "rate", 0
        case ("rate" | "burst" as key, "=", text):
            try:
                return key, (read_rate if key == "rate" else read_burst)(key, text)
            except ValueError as error:
                raise ConfigError(f"change {word!r}: {error}") from None
        case (key, "=", text) if key in KEYS or key == "impair":
            try:
                check_word(key, text)
            except ValueError as error:
                raise ConfigError(f"change {word!r}: {error}") from None
            return key, text
        case _:
            raise ConfigError(f"change {word!r}: not known; give {_FORMS}")
