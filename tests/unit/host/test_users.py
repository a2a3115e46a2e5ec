from collections.abc import Callable

import pytest

from vbackend.errors import ConfigError
from vbackend.host.users import group_id, user_id


@pytest.mark.parametrize(
    ("number", "what"),
    [
        (user_id, "owner=no-such-name: there is no such user"),
        (group_id, "group=no-such-name: there is no such group"),
    ],
)
def test_numbers(number: Callable[[str], int], what: str) -> None:
    assert (number("root"), number("0"), number("4242")) == (0, 0, 4242)
    with pytest.raises(ConfigError, match=f"{what}; give a name or a number"):
        number("no-such-name")
