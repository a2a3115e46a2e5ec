import os
import socket

import pytest

from vbackend.fds import OwnedFd


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_close_closes_once() -> None:
    read, write = os.pipe()
    os.close(write)
    owned = OwnedFd(read)
    owned.close()
    assert owned.closed
    assert not is_open(read)
    reused = os.open("/dev/null", os.O_RDONLY)
    owned.close()
    assert is_open(reused)
    os.close(reused)


def test_detach_gives_it_away() -> None:
    ours, theirs = socket.socketpair()
    owned = OwnedFd.from_socket(ours)
    assert ours.fileno() == -1
    fd = owned.detach()
    assert is_open(fd)
    with pytest.raises(ValueError, match="handed on"):
        owned.fileno()
    os.close(fd)
    theirs.close()


def test_a_duplicate_lives_on_its_own() -> None:
    with OwnedFd(os.open("/dev/null", os.O_RDONLY)) as first:
        second = first.duplicate()
        assert second.fileno() != first.fileno()
        assert not os.get_inheritable(second.fileno())
    assert is_open(second.fileno())
    second.close()


def test_with_closes_also_after_an_error() -> None:
    fd = os.open("/dev/null", os.O_RDONLY)

    def fail_inside() -> None:
        with OwnedFd(fd):
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError):
        fail_inside()
    assert not is_open(fd)


def test_forgetting_one_is_reported() -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    owned = OwnedFd(fd)
    held = [owned]
    del owned
    with pytest.warns(ResourceWarning, match=f"OwnedFd\\({fd}\\) was never closed"):
        held.clear()
    assert not is_open(fd)


def test_a_negative_number_is_no_descriptor() -> None:
    with pytest.raises(ValueError, match="-1"):
        OwnedFd(-1)


def test_repr_says_what_it_holds() -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    with OwnedFd(fd) as owned:
        assert repr(owned) == f"OwnedFd({fd})"
    assert repr(owned) == "OwnedFd(closed)"
