"""The agent's lines, however the port cuts them."""

from hypothesis import given
from hypothesis import strategies as st

from vbackend.qemu.agent import AgentError, Codec

LINES = st.one_of(
    st.sampled_from(
        [b"hello 1", b"", b"end 1 0 : :", b"end 12 137 :b3V0Cg== :ZXJyCg==", b"end 1 0 :b3", b"end 1 0 :b3 :"]
    ),
    st.binary(max_size=30).filter(lambda line: b"\n" not in line),
)


@given(st.lists(LINES, max_size=10), st.data())
def test_any_split_gives_the_same_events(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    codec = Codec(1000)
    parts = [stream[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [event for part in parts for event in codec.feed(part)] == Codec(1000).feed(stream)


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_garbage_is_ignored_or_refused(parts: list[bytes]) -> None:
    codec = Codec(100)
    try:
        for part in parts:
            codec.feed(part)
    except AgentError:
        return
