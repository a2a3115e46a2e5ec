"""One process for all tests of a file: whatever one does to it, the next finds it whole."""

from collections.abc import Iterator

import pytest

from tests.conformance.vhost_user.lab import Lab, vhost_lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with vhost_lab(tmp_path_factory.mktemp("lab")) as made:
        yield made
