"""Reasons are words for a table, and errors say theirs."""

import re

from vbackend.errors import PeerError
from vbackend.services.reasons import Drop, WireError


def test_reasons_read_like_those_of_the_engine() -> None:
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", reason) for reason in Drop)


def test_error_says_its_reason() -> None:
    error = WireError(Drop.CHECKSUM, "none")
    assert isinstance(error, PeerError)
    assert (error.reason, str(error), str(WireError(Drop.SHORT))) == (
        Drop.CHECKSUM,
        "checksum: none",
        "short",
    )
