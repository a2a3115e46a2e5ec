"""vbackend/testing/frames.py: frames in words."""

import pytest

from tests.support.frames import BROADCAST, frame, mac
from vbackend.testing.frames import frame_line, listed


def test_a_frame_in_a_few_words() -> None:
    assert (
        frame_line(frame(BROADCAST, mac(1), size=60)) == "52:54:00:00:00:01 > ff:ff:ff:ff:ff:ff 88b5 60 bytes"
    )


@pytest.mark.parametrize(
    ("items", "text"),
    [([], "nothing"), ([1, 2], "1; 2"), (list(range(12)), "2 before; 2; 3; 4; 5; 6; 7; 8; 9; 10; 11")],
)
def test_the_last_of_many(items: list[int], text: str) -> None:
    assert listed(items) == text
