"""The agent's lines, however the port cuts them and whatever is in them."""

from hypothesis import given
from hypothesis import strategies as st

from vbackend.errors import PeerError
from vbackend.qemu.agent_lines import Data, Drop, End, Fail, Hello, Lines, Room, Run, Signal, encode

NUMBERS = st.integers(0, 10**17)
STREAMS = st.sampled_from(["in", "out", "err"])
ESCAPES = st.lists(st.sampled_from([b"\x1b", b"\n", b"a", b"b", b" :"]), max_size=12).map(b"".join)
LINES = st.one_of(
    st.just(Hello()),
    st.builds(Run, NUMBERS, st.text(st.characters(codec="utf-8")), st.booleans(), NUMBERS),
    st.builds(Data, NUMBERS, STREAMS, st.binary(max_size=30) | ESCAPES),
    st.builds(Room, NUMBERS, STREAMS, NUMBERS),
    st.builds(Signal, NUMBERS, NUMBERS),
    st.builds(Drop, st.none() | NUMBERS),
    st.builds(End, NUMBERS, st.integers(0, 255)),
    st.builds(Fail, NUMBERS, st.text(st.characters(codec="utf-8"))),
)


@given(st.lists(LINES, max_size=10), st.data())
def test_any_lines_cut_anywhere(lines: list[Hello], data: st.DataObject) -> None:
    stream = b"".join(encode(line) for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader = Lines()
    parts = [stream[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [line for part in parts for line in reader.feed(part)] == lines


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_garbage_is_ignored_or_refused(parts: list[bytes]) -> None:
    lines = Lines(100)
    try:
        for part in parts:
            lines.feed(part)
    except PeerError:
        return


@given(st.binary(max_size=60), LINES)
def test_a_line_after_garbage_is_found(garbage: bytes, line: Hello) -> None:
    assert Lines().feed(garbage + b"\n" + encode(line))[-1:] == [line]
