"""Claiming, binding and releasing Unix socket paths, on real sockets in a temporary directory."""

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from vbackend.errors import ConfigError
from vbackend.ports.unixsock import SocketIdentity, bind_unix, claim_path, release_path, socket_address

KINDS = [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


def bound(stack: ExitStack, path: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    sock = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
    sock.bind(socket_address(path))
    if kind != socket.SOCK_DGRAM:
        sock.listen(1)
    return sock


def test_nothing_there_is_fine(tmp_path: Path) -> None:
    claim_path(str(tmp_path / "a"))
    claim_path(f"@vbackend-test-{os.getpid()}-free")


@pytest.mark.parametrize("kind", KINDS)
def test_stale_socket_is_removed(tmp_path: Path, stack: ExitStack, kind: socket.SocketKind) -> None:
    path = str(tmp_path / "a")
    bound(stack, path, kind).close()
    assert Path(path).is_socket()
    claim_path(path)
    assert not Path(path).exists()


@pytest.mark.parametrize("kind", KINDS)
def test_living_socket_is_an_error_that_names_it(
    tmp_path: Path, stack: ExitStack, kind: socket.SocketKind
) -> None:
    path = str(tmp_path / "a")
    bound(stack, path, kind)
    who = "another process" if kind == socket.SOCK_DGRAM else f"process {os.getpid()} \\("
    with pytest.raises(ConfigError, match=f"{path}.*in use by {who}"):
        claim_path(path)
    assert Path(path).is_socket()


def test_owner_is_the_other_process(tmp_path: Path, stack: ExitStack) -> None:
    path = str(tmp_path / "a")
    code = (
        "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.bind(sys.argv[1])\ns.listen(1)\n"
        "print('ready', flush=True)\nsys.stdin.read()"
    )
    child = stack.enter_context(
        subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    )
    stack.callback(child.kill)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    with pytest.raises(ConfigError, match=rf"process {child.pid} \(python"):
        claim_path(path)
    child.kill()
    child.wait()
    claim_path(path)
    assert not Path(path).exists()


def test_full_backlog_counts_as_living(tmp_path: Path, stack: ExitStack) -> None:
    path = str(tmp_path / "a")
    listener = stack.enter_context(socket.socket(socket.AF_UNIX))
    listener.bind(path)
    listener.listen(0)
    filler = stack.enter_context(socket.socket(socket.AF_UNIX))
    filler.connect(path)
    with pytest.raises(ConfigError, match="does not accept connections"):
        claim_path(path)
    assert Path(path).is_socket()


def test_abstract_name(stack: ExitStack) -> None:
    name = f"@vbackend-test-{os.getpid()}"
    sock = bound(stack, name)
    with pytest.raises(ConfigError, match="in use by process"):
        claim_path(name)
    sock.close()
    claim_path(name)


@pytest.mark.parametrize("make", ["file", "directory", "dangling link", "link to socket"])
def test_what_is_no_socket_stays(tmp_path: Path, stack: ExitStack, make: str) -> None:
    path = tmp_path / "a"
    match make:
        case "file":
            path.write_text("precious")
        case "directory":
            path.mkdir()
        case "dangling link":
            path.symlink_to("nowhere")
        case "link to socket":
            bound(stack, str(tmp_path / "b")).close()
            path.symlink_to("b")
    with pytest.raises(ConfigError, match="no socket"):
        claim_path(str(path))
    assert os.path.lexists(path)


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("", "not a path"),
        ("@", "not a path"),
        ("a\0b", "not a path"),
        ("x" * 108, "108 bytes long"),
        ("@" + "é" * 54, "109"),
    ],
)
def test_impossible_paths(path: str, what: str) -> None:
    for function in (socket_address, claim_path):
        with pytest.raises(ConfigError, match=what) as caught:
            function(path)
        assert "\n" not in str(caught.value)


def test_longest_path_can_be_bound(stack: ExitStack) -> None:
    name = f"@vbackend-test-{os.getpid()}-".ljust(107, "x")
    sock = stack.enter_context(socket.socket(socket.AF_UNIX))
    assert bind_unix(sock, name) is None
    assert sock.getsockname() == b"\0" + name[1:].encode()


@pytest.mark.parametrize("mode", [0o600, 0o660, None])
def test_bind_sets_mode_and_listens(tmp_path: Path, stack: ExitStack, mode: int | None) -> None:
    path = str(tmp_path / "a")
    sock = stack.enter_context(socket.socket(socket.AF_UNIX))
    stack.callback(os.umask, os.umask(0o022 if mode is None else 0o007))
    identity = bind_unix(sock, path, mode=mode, backlog=4)
    found = os.lstat(path)
    assert identity == SocketIdentity(found.st_dev, found.st_ino)
    assert stat.S_IMODE(found.st_mode) == (mode if mode is not None else 0o755)
    client = stack.enter_context(socket.socket(socket.AF_UNIX))
    client.connect(path)


def test_bind_replaces_stale_and_refuses_living(tmp_path: Path, stack: ExitStack) -> None:
    path = str(tmp_path / "a")
    bound(stack, path).close()
    first = stack.enter_context(socket.socket(socket.AF_UNIX))
    bind_unix(first, path, backlog=1)
    second = stack.enter_context(socket.socket(socket.AF_UNIX))
    with pytest.raises(ConfigError, match="in use"):
        bind_unix(second, path, backlog=1)


def test_bind_error_names_the_path(tmp_path: Path, stack: ExitStack) -> None:
    sock = stack.enter_context(socket.socket(socket.AF_UNIX))
    with pytest.raises(FileNotFoundError, match=r"cannot bind.*missing/a"):
        bind_unix(sock, str(tmp_path / "missing" / "a"))


def test_failed_listen_leaves_no_file(tmp_path: Path, stack: ExitStack) -> None:
    sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))  # cannot listen
    with pytest.raises(OSError, match="not supported"):
        bind_unix(sock, str(tmp_path / "a"), backlog=1)
    assert not (tmp_path / "a").exists()


def test_release_removes_only_its_own(tmp_path: Path, stack: ExitStack) -> None:
    path = str(tmp_path / "a")
    first = stack.enter_context(socket.socket(socket.AF_UNIX))
    identity = bind_unix(first, path, backlog=1)
    assert identity is not None
    second = stack.enter_context(socket.socket(socket.AF_UNIX))
    Path(path).rename(tmp_path / "old")
    successor = bind_unix(second, path, backlog=1)
    release_path(path, identity)
    assert Path(path).is_socket()
    release_path(path, successor)
    assert not Path(path).exists()
    release_path(path, successor)  # gone already
    release_path("@anything", None)


def test_many_starting_at_once_have_one_winner(tmp_path: Path, stack: ExitStack) -> None:
    path = str(tmp_path / "a")
    bound(stack, path).close()
    code = (
        "import socket, sys\nfrom vbackend.errors import ConfigError\n"
        "from vbackend.ports.unixsock import bind_unix\n"
        "print('ready', flush=True); sys.stdin.readline()\ns = socket.socket(socket.AF_UNIX)\n"
        "try:\n    bind_unix(s, sys.argv[1], backlog=16); print('won', flush=True)\n"
        "except ConfigError:\n    print('lost', flush=True)\nsys.stdin.readline()"
    )
    children = []
    for _ in range(6):
        child = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", code, path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
        )
        stack.callback(child.kill)
        children.append(child)
    outs = [child.stdout for child in children if child.stdout is not None]
    ins = [child.stdin for child in children if child.stdin is not None]
    assert [out.readline() for out in outs] == ["ready\n"] * 6
    for pipe in ins:
        pipe.write("\n")
    assert sorted(out.readline() for out in outs) == ["lost\n"] * 5 + ["won\n"]
    client = stack.enter_context(socket.socket(socket.AF_UNIX))
    client.connect(path)


def test_a_held_lock_does_not_stop_us(tmp_path: Path, stack: ExitStack) -> None:
    import fcntl

    directory = os.open(tmp_path, os.O_RDONLY)
    stack.callback(os.close, directory)
    fcntl.flock(directory, fcntl.LOCK_EX)
    sock = stack.enter_context(socket.socket(socket.AF_UNIX))
    assert bind_unix(sock, str(tmp_path / "a"), backlog=1) is not None
