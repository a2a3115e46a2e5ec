"""Impairments and their text are the same thing."""

from hypothesis import given
from hypothesis import strategies as st

from vbackend.ports.impairment import KEYS, NO_IMPAIRMENT, Gilbert, Impairment

_chances = st.floats(0, 1) | st.sampled_from([0.0, 0.01, 0.1, 1.0, 5e-324])
_gilberts = st.builds(Gilbert, _chances, _chances, _chances, _chances)


@st.composite
def impairments(draw: st.DrawFn) -> Impairment:
    delay = draw(st.integers(0, 3_600_000_000))
    jitter = draw(st.integers(0, delay))
    return Impairment(
        delay=delay,
        jitter=jitter,
        overtake=jitter > 0 and draw(st.booleans()),
        loss=draw(_chances | _gilberts),
        duplicate=draw(_chances),
        corrupt=draw(_chances),
        reorder=draw(_chances) if delay else 0.0,
        seed=draw(st.none() | st.integers(0, 2**64 - 1)),
        hold=draw(st.integers(1 << 17, 1 << 32)),
    )


@given(impairments())
def test_text_is_exact(impairment: Impairment) -> None:
    assert NO_IMPAIRMENT.changed(impairment.settings()) == impairment


@given(impairments(), impairments())
def test_words_replace_what_they_name(before: Impairment, after: Impairment) -> None:
    words = dict.fromkeys(KEYS, "off") | after.settings()
    assert before.changed(words) == after


@given(st.dictionaries(st.sampled_from(KEYS), st.text(max_size=8), max_size=3))
def test_any_text_is_read_or_refused_in_one_line(words: dict[str, str]) -> None:
    match _outcome(words):
        case ValueError() as error:
            assert len(str(error).splitlines()) == 1
        case found:
            assert NO_IMPAIRMENT.changed(found.settings()) == found


def _outcome(words: dict[str, str]) -> Impairment | ValueError:
    try:
        return NO_IMPAIRMENT.changed(words)
    except ValueError as error:
        return error
