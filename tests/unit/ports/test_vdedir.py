"""The switch's directory: made, taken over, left alone; whose sockets a client may name."""

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vbackend.errors import ConfigError, PeerError
from vbackend.ports import vdedir
from vbackend.ports.unixsock import release_path
from vbackend.ports.vdedir import SwitchDirectory, connect_client


@contextmanager
def bound(path: str | bytes, kind: socket.SocketKind = socket.SOCK_DGRAM) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, kind) as sock:
        sock.bind(path)
        if kind == socket.SOCK_STREAM:
            sock.listen()
        yield sock


def leave(path: Path, kind: socket.SocketKind = socket.SOCK_DGRAM) -> None:
    """The file of a socket that nobody has any more."""
    with bound(str(path), kind):
        pass


def permissions(path: Path | str) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


# mode, that of the sockets, of the directory
MODES = [(None, 0o600, 0o2700), (0o660, 0o660, 0o2770), (0o666, 0o666, 0o2777), (0o640, 0o640, 0o2750)]


@pytest.mark.parametrize(("mode", "sockets", "directory"), MODES)
def test_modes_are_those_of_vde_switch(
    mode: int | None, sockets: int, directory: int, tmp_path: Path
) -> None:
    old = os.umask(0o077)
    try:
        made = SwitchDirectory.claim(str(tmp_path / "sw"), mode, str(os.getegid()))
        with (
            bound(made.control, socket.SOCK_STREAM),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as data,
        ):
            made.open_up()
            place = made.bind(data, 7)
            assert place[0] == f"{tmp_path}/sw/007.{os.getpid()}"
            assert permissions(place[0]) == sockets
            assert permissions(made.path) == directory
            if mode is not None:
                assert permissions(made.control) == sockets
            release_path(*place)
        Path(made.control).unlink()
        made.release()
        assert list(tmp_path.iterdir()) == []
    finally:
        os.umask(old)


def test_what_a_dead_switch_left_is_taken_over(tmp_path: Path) -> None:
    place = tmp_path / "sw"
    place.mkdir()
    leave(place / "ctl", socket.SOCK_STREAM)
    for name in ("001.4711", ".04711-00000", "1024.5", "my.sock"):
        leave(place / name)
    (place / "002.4711").write_text("no socket")
    with bound(str(place / "003.4711")):
        made = SwitchDirectory.claim(str(place), None, None)
        with bound(made.control, socket.SOCK_STREAM):
            made.open_up()
            assert {path.name for path in place.iterdir()} == {"ctl", "my.sock", "002.4711", "003.4711"}
        made.release()
        assert place.exists(), "others use it"
    for path in place.iterdir():
        path.unlink()
    made.release()
    assert not place.exists()
    made.release()


def test_a_directory_that_is_no_switch_s_stays_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    made = SwitchDirectory.claim(str(tmp_path), 0o666, None)
    with bound(made.control, socket.SOCK_STREAM):
        made.open_up()
        assert permissions(tmp_path) == 0o755
        assert permissions(made.control) == 0o666
    Path(made.control).unlink()
    made.release()
    assert tmp_path.exists()


def test_a_living_switch_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "sw").mkdir(mode=0o750)
    with bound(str(tmp_path / "sw/ctl"), socket.SOCK_STREAM):
        with pytest.raises(ConfigError, match=rf"in use by process {os.getpid()} .*; stop it or choose"):
            SwitchDirectory.claim(str(tmp_path / "sw"), None, None)
        assert permissions(tmp_path / "sw") == 0o750


def test_links_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert SwitchDirectory.claim(str(tmp_path / "link"), None, None).path == str(tmp_path / "real")


def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for place, group, words in (
        (tmp_path / "file", None, "no directory"),
        (tmp_path / "sw", "no-such-group", "group=no-such-group: there is no such group"),
        (tmp_path / ("x" * 95), None, "bytes long; at most 94"),
    ):
        with pytest.raises(ConfigError, match=words):
            SwitchDirectory.claim(str(place), None, group)
    with pytest.raises(OSError, match="cannot make it: No such file or directory; make its folder first"):
        SwitchDirectory.claim(str(tmp_path / "missing/sw"), None, None)
    (tmp_path / "sw").mkdir()
    if os.getuid() == 0:
        os.chown(tmp_path / "sw", 4711, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(ConfigError, match=r"belongs to user \d+; choose another path"):
        SwitchDirectory.claim(str(tmp_path / "sw"), None, None)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "sw"}


def test_another_file_in_a_socket_s_place_is_not_shared(tmp_path: Path) -> None:
    made = SwitchDirectory.claim(str(tmp_path / "sw"), 0o666, None)
    precious = tmp_path / "precious"
    precious.touch(mode=0o600)
    Path(made.control).symlink_to(precious)
    with pytest.raises(OSError, match="cannot share the socket: somebody put another file"):
        made.open_up()
    assert permissions(precious) == 0o600


def test_a_client_names_its_own_socket(tmp_path: Path) -> None:
    for name in (os.fsencode(tmp_path / "data"), b"\0" + os.urandom(107)):
        with bound(name) as client, connect_client(name, os.geteuid()) as ours:
            ours.send(b"frame")
            assert client.recv(100) == b"frame"


def test_a_client_names_something_else(tmp_path: Path) -> None:
    def connect(name: str, uid: int = 4711) -> None:
        connect_client(os.fsencode(tmp_path / name), uid).close()

    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("socket")
    os.mkfifo(tmp_path / "fifo")
    uid = os.geteuid()
    with bound(str(tmp_path / "socket")), bound(str(tmp_path / "stream"), socket.SOCK_STREAM):
        for name in ("file", "link", "fifo", "."):
            with pytest.raises(PeerError, match="is no socket"):
                connect(name, uid)
        with pytest.raises(PeerError, match=rf"is of user {uid}, and it of 4711"):
            connect("socket")
        with pytest.raises(PeerError, match=os.strerror(errno.EPROTOTYPE)):
            connect("stream", uid)
    for name, number in (("missing", errno.ENOENT), ("socket", errno.ECONNREFUSED)):
        with pytest.raises(PeerError, match=os.strerror(number)):
            connect(name, uid)


def test_a_socket_with_another_peer_is_not_to_be_had(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path / "taken")
    with bound(path) as taken, bound(os.fsencode(tmp_path / "other")):
        taken.connect(os.fsencode(tmp_path / "other"))
        with pytest.raises(PeerError, match="cannot be reached: Operation not permitted"):
            connect_client(path, os.geteuid())


def test_limits_leave_room_for_the_longest_name() -> None:
    assert len(f"{'x' * vdedir._PATH_MAX}/1024.4194304") == 107
