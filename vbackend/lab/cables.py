"""`vbackend set CABLE ... --lab LAB`: the words as the arguments of the daemon's `cable-set`. Pure."""

from collections.abc import Mapping, Sequence

from pydantic import JsonValue, ValidationError

from vbackend.errors import ConfigError
from vbackend.lab.model import Cable, Impair
from vbackend.lab.words import first_problem

__all__ = ["cable_changes"]


def cable_changes(cable: Cable, words: Sequence[str], *, forward: bool, back: bool) -> dict[str, JsonValue]:
    """What `cable-set` takes: `up`, and of each direction that is to change all its impairments.

    Words are up, down, KEY=VALUE as in a lab's file, KEY=off and impair=off. Neither `forward` nor `back`: both.
    ConfigError: a word that is none, or one given twice; up and down are of both directions.
    """
    changes: dict[str, JsonValue] = {"cable": cable.title}
    pairs: list[tuple[str, str]] = []
    for word in words:
        key, equals, value = word.partition("=")
        if word in ("up", "down"):
            if forward or back:
                raise ConfigError(f"change {word!r}: of both directions; leave --forward and --back out")
            if "up" in changes:
                raise ConfigError(f"change {word!r}: up or down is given twice; give it once")
            changes["up"] = word == "up"
        elif equals and any(key == given for given, _ in pairs):
            raise ConfigError(f"change {word!r}: {key} is given twice; give it once")
        elif equals and (key in Impair.model_fields or word == "impair=off"):
            pairs.append((key, value))
        else:
            known = ", ".join(Impair.model_fields)
            raise ConfigError(
                f"change {word!r}: not known; give up, down, impair=off, or one of {known} as KEY=VALUE"
            )
    chosen = {"forward": forward or not back, "back": back or not forward}
    for (direction, wanted), keys in zip(chosen.items(), cable.directions(), strict=True):
        if wanted and pairs:
            changes[direction] = dict(_changed(keys, pairs))
    return changes


def _changed(keys: Mapping[str, str], pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    found = dict(keys)
    for key, value in pairs:
        if key == "impair":
            found.clear()
        elif value == "off":
            found.pop(key, None)
        else:
            found[key] = value
    try:
        Impair.model_validate(found)
    except ValidationError as error:
        raise ConfigError(f"change {first_problem(error)}") from None
    return found
