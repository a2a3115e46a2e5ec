"""Any bytes on a VDE switch's control connection, in any pieces."""

from hypothesis import given
from hypothesis import strategies as st

from tests.support.vde_peers import request
from vbackend.errors import PeerError
from vbackend.ports.vdewire import Request, parse_request

_requests = st.builds(
    request,
    st.binary(max_size=108),
    port=st.integers(0, 0xFFFFFF) | st.just(0),
    version=st.sampled_from([1, 3]) | st.integers(0, 0xFFFFFFFF),
    kind=st.integers(0, 255) | st.just(0),
    family=st.just(1) | st.integers(0, 0xFFFF),
    description=st.binary(max_size=200),
)


def _outcome(data: bytes) -> Request | str | None:
    try:
        return parse_request(data)
    except PeerError as error:
        return str(error)


@given(st.binary(max_size=300) | _requests)
def test_it_is_understood_or_refused_in_one_printable_line(data: bytes) -> None:
    match _outcome(data):
        case str() as reason:
            assert reason.isprintable()
            assert reason.isascii()
        case Request() as found:
            assert found.socket.startswith((b"/", b"\0"))
            assert len(found.socket) <= 108
            assert found.socket.strip(b"\0")
            assert found.description.isprintable() or not found.description


@given(_requests)
def test_every_beginning_waits_or_tells_what_the_whole_tells(data: bytes) -> None:
    """What is known early is never taken back; only the description may grow."""
    known: Request | str | None = None
    for length in range(len(data) + 1):
        found = _outcome(data[:length])
        if isinstance(known, Request):
            assert isinstance(found, Request)
            assert (found.socket, found.port) == (known.socket, known.port)
            assert found.description.startswith(known.description)
        elif known is not None and length > 4:
            assert found == known
        known = found
    assert known == _outcome(data)
