import os

import pytest

from tests.support.fds import open_fds

pytestmark = pytest.mark.usefixtures("no_garbage")


def test_what_is_open() -> None:
    before = open_fds()
    reader, writer = os.pipe()
    assert {reader, writer} <= open_fds()
    os.close(reader)
    os.close(writer)
    assert open_fds() == before
