"""The words of `vbackend set`."""

import pytest
from pydantic import JsonValue

from vbackend.control.changes import parse_changes
from vbackend.errors import ConfigError


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {}),
        (["up"], {"up": True}),
        (["down"], {"up": False}),
        (["queue=5", "down", "queue-bytes=100000"], {"queue": 5, "up": False, "queue-bytes": 100_000}),
        (["rate=1.5M", "burst=64k"], {"rate": 1_500_000, "burst": 64_000}),
        (["rate=off"], {"rate": 0}),
        (
            ["delay=50ms", "loss=gilbert:p=1%,r=10%", "jitter=off"],
            {"delay": "50ms", "loss": "gilbert:p=1%,r=10%", "jitter": "off"},
        ),
        (["impair=off", "seed=7"], {"impair": "off", "seed": "7"}),
    ],
)
def test_good(words: list[str], expected: dict[str, JsonValue]) -> None:
    assert parse_changes(words) == expected


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["up", "down"], "change 'down': up is given twice; give it once"),
        (["queue=1", "queue=1"], "change 'queue=1': queue is given twice"),
        (["queue="], "change 'queue=': '' is not a number; write queue=N"),
        (["queue-bytes=-5"], "change 'queue-bytes=-5': '-5' is not a number; write queue-bytes=N"),
        (["queue=²"], "change 'queue=²': '²' is not a number"),
        (["rate=fast"], "change 'rate=fast': rate is 'fast'; give bits/s such as 800k"),
        (["burst=off"], "change 'burst=off': burst is 'off'; give bytes such as 64k"),
        (["rate=1M", "rate=off"], "change 'rate=off': rate is given twice"),
        (["delay=50"], "change 'delay=50': delay is '50'; give a time such as 200us"),
        (["loss=1%", "loss=off"], "change 'loss=off': loss is given twice"),
        (["impair=on"], "change 'impair=on': impair is 'on'; give off"),
        (["delay"], "change 'delay': not known"),
        (["queue"], "change 'queue': not known; give up, down"),
        (["up=1"], "change 'up=1': not known"),
        (["mtu=9000"], "change 'mtu=9000': not known"),
        ([""], "change '': not known"),
    ],
)
def test_bad(words: list[str], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_changes(words)
    assert str(caught.value).startswith(text)
