"""`vbackend set CABLE`: words to arguments."""

from typing import Any

import pytest

from vbackend.errors import ConfigError
from vbackend.lab.cables import cable_changes
from vbackend.lab.model import Cable, Impair

CABLE = Cable(ends=("a:e", "b:e"), name="core", delay="50ms", back=Impair(loss="1%"))


@pytest.mark.parametrize(
    ("words", "ways", "expected"),
    [
        (["down"], {}, {"up": False}),
        (["up"], {}, {"up": True}),
        (["delay=1ms"], {}, {"forward": {"delay": "1ms"}, "back": {"delay": "1ms", "loss": "1%"}}),
        (["loss=off"], {"back": True}, {"back": {"delay": "50ms"}}),
        (["impair=off", "rate=1M"], {"forward": True}, {"forward": {"rate": "1M"}}),
        (["down", "impair=off"], {}, {"up": False, "forward": {}, "back": {}}),
    ],
)
def test_words(words: list[str], ways: dict[str, bool], expected: dict[str, Any]) -> None:
    wanted = {"forward": False, "back": False} | ways
    assert cable_changes(CABLE, words, **wanted) == {"cable": "core", **expected}


@pytest.mark.parametrize(
    ("word", "what"),
    [
        ("delay", "not known; give up, down"),
        ("colour=red", "not known"),
        ("impair=on", "not known"),
        ("delay=long", "change delay: "),
        ("loss=200%", "change loss: "),
    ],
)
def test_words_that_are_none(word: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        cable_changes(CABLE, [word], forward=False, back=False)


@pytest.mark.parametrize(
    ("words", "forward", "what"),
    [
        (["up", "down"], False, "change 'down': up or down is given twice"),
        (["loss=1%", "loss=2%"], False, "change 'loss=2%': loss is given twice"),
        (["loss=1%", "down"], True, "change 'down': of both directions; leave --forward"),
    ],
)
def test_words_that_contradict_others(words: list[str], forward: bool, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        cable_changes(CABLE, words, forward=forward, back=False)
