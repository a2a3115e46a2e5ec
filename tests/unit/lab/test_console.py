"""A terminal on a console: bytes both ways, and three ways to end."""

import os
import socket
import threading
from pathlib import Path

import pytest

from vbackend.errors import HostError
from vbackend.lab.console import ESCAPE, attach, copy


@pytest.mark.parametrize(
    ("typed", "reached"), [(b"ls\r" + ESCAPE + b"lost", b"ls\r"), (b"ls\r", b"ls\r"), (ESCAPE, b"")]
)
def test_keys_until_the_escape_or_their_end(typed: bytes, reached: bytes) -> None:
    ours, theirs = socket.socketpair()
    keys, typing = os.pipe()
    os.write(typing, typed)
    os.close(typing)
    with ours, theirs, Path(os.devnull).open("wb") as screen:
        copy(ours, keys, screen.fileno())
        os.close(keys)
        ours.shutdown(socket.SHUT_WR)
        assert b"".join(iter(lambda: theirs.recv(100), b"")) == reached


def test_what_the_guest_writes_until_its_end() -> None:
    ours, theirs = socket.socketpair()
    keys, typing = os.pipe()
    shown, screen = os.pipe()
    theirs.sendall(b"login: ")
    theirs.close()
    with ours:
        copy(ours, keys, screen)
    os.close(screen)
    with os.fdopen(shown, "rb") as file:
        assert file.read() == b"login: "
    os.close(keys)
    os.close(typing)


def test_attach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HostError, match=r"cannot connect to the console .*No such file"):
        attach(tmp_path / "no")
    keys, typing = os.pipe()
    os.write(typing, b"x" + ESCAPE)
    got: list[bytes] = []
    with (
        socket.socket(socket.AF_UNIX) as listener,
        os.fdopen(keys) as stdin,
        Path(os.devnull).open("w") as stdout,
        monkeypatch.context() as patch,
    ):
        listener.bind(str(tmp_path / "c"))
        listener.listen()

        def serve() -> None:
            with listener.accept()[0] as console:
                got.append(console.recv(10))

        serving = threading.Thread(target=serve)
        serving.start()
        patch.setattr("sys.stdin", stdin)
        patch.setattr("sys.stdout", stdout)
        attach(tmp_path / "c")
        serving.join()
    os.close(typing)
    assert got == [b"x"]
