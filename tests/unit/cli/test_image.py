"""`vbackend image`: the recipes there are."""

import pytest

from tests.unit.cli.harness import one_line, vbackend
from vbackend.images import list_images


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = vbackend(capsys, "image", "list")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.split() == list_images()


def test_unknown_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert one_line(vbackend(capsys, "image", "build", "nosuch"), 2).startswith(
        "there is no image recipe 'nosuch'"
    )
