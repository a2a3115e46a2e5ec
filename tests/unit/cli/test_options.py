"""The PORT help names every kind and key the parser knows."""

import pytest

from vbackend.cli.options import PORT_HELP
from vbackend.errors import ConfigError
from vbackend.ports.parse import parse_port


def known_words(port: str) -> list[str]:
    """What the parser says there is."""
    with pytest.raises(ConfigError) as caught:
        parse_port(port)
    return str(caught.value).partition("there are ")[2].split(", ")


@pytest.mark.parametrize(
    "port",
    [
        "?",
        "tap:x,?",
        "tun:x,?",
        "vhost-user:/x,?",
        "unit:/x,?",
        "stream:unix:/x,?",
        "dgram:unix:/a:/b,?",
        "stream:?",
        "dgram:?:",
    ],
)
def test_help_is_complete(port: str) -> None:
    words = known_words(port)
    assert words
    assert [word for word in words if word not in PORT_HELP] == []


def test_help_fits_80_columns() -> None:
    assert max(len(line) for line in PORT_HELP.splitlines()) <= 78
