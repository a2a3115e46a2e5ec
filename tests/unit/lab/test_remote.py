"""Commands in a guest, from another process than the daemon's. The guest is our images' agent, run on this host."""

import asyncio
import hashlib
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest
from pydantic import JsonValue

from tests.support.run import wait_until
from tests.unit.control.fakes import FakeBackend
from vbackend.control.commands import Arguments, Command, Desk
from vbackend.control.server import ControlServer
from vbackend.errors import ConfigError, ControlError
from vbackend.images.recipe import RECIPES
from vbackend.lab.relay import Relays
from vbackend.lab.remote import run_command
from vbackend.qemu.agent import Agent, Result

ATTACH: Final = (
    "import sys; from vbackend.lab.remote import attach_command;"
    "sys.exit(attach_command(sys.argv[1], 'r1', sys.argv[2], timeout=float(sys.argv[3])))"
)
BLOB: Final = os.urandom(8 << 20)


class VmArguments(Arguments):
    vm: str


class Served:
    """A control socket with vm-attach alone, which a thread serves."""

    def __init__(self, folder: Path) -> None:
        self.path: Final = str(folder / "control")
        self._ready, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(20), "the control socket was not served"

    async def _serve(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            program = str(RECIPES / "overlay/sbin/agent")
            child = await asyncio.create_subprocess_exec("perl", program, "-", stdin=theirs.fileno())
        async with Agent(ours) as agent, ControlServer(self.path, version="1.2.3") as server:
            relays = Relays(self.path)

            async def attach(_desk: Desk, given: VmArguments) -> JsonValue:
                if given.vm == "odd":
                    return {"place": 5}
                if given.vm != "r1":
                    raise ConfigError(f"VM {given.vm!r} has no agent")
                return {"path": relays.start(agent)}

            await server.serve(FakeBackend(), lambda: None, {"vm-attach": Command(VmArguments, attach)})
            self._ready.set()
            await asyncio.to_thread(self._over.wait)
            await relays.close()
        await child.wait()

    def end(self) -> None:
        self._over.set()
        self._thread.join()

    def attach(self, command: str, timeout: float = 60) -> list[str]:
        return [sys.executable, "-c", ATTACH, self.path, command, str(timeout)]

    def run(self, command: str, given: bytes | None = None) -> tuple[bytes, bytes, int]:
        done = subprocess.run(
            self.attach(command),
            stdin=subprocess.DEVNULL if given is None else None,
            input=given,
            capture_output=True,
            timeout=60,
            check=False,
        )
        return done.stdout, done.stderr, done.returncode


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    found = Served(tmp_path)
    yield found
    found.end()


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_gathered(served: Served) -> None:
    assert run_command(served.path, "r1", "cat; echo err >&2; exit 3", input=b"\0\n", timeout=20) == Result(
        b"\0\n", b"err\n", 3
    )


@pytest.mark.parametrize(
    ("vm", "command", "error", "words"),
    [
        ("r1", "sleep 100", ControlError, "VM 'r1': in the guest, 'sleep 100' took more than 0.2 s"),
        (
            "r1",
            "kill -KILL $PPID",
            ControlError,
            "VM 'r1': the guest's command did not end: its agent's port",
        ),
        ("r9", "true", ConfigError, "VM 'r9' has no agent"),
        ("odd", "true", ControlError, "no place of an agent in"),
        ("r1", "a\0", ConfigError, "has a NUL"),
    ],
)
def test_errors(served: Served, vm: str, command: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        run_command(served.path, vm, command, input=b"", timeout=0.2 if "sleep" in command else 20)


@pytest.mark.parametrize(
    ("command", "given", "ended"),
    [
        ("cat; echo err >&2; exit 7", b"\xff\0\x1b", (b"\xff\0\x1b", b"err\n", 7)),
        ("cat", None, (b"", b"", 0)),
        ("head -c 1", BLOB, (BLOB[:1], b"", 0)),
        ("cat", BLOB, (BLOB, b"", 0)),
        ("cat >&2", BLOB, (b"", BLOB, 0)),
        ("md5sum", BLOB, (hashlib.md5(BLOB, usedforsecurity=False).hexdigest().encode() + b"  -\n", b"", 0)),
    ],
)
def test_streams(served: Served, command: str, given: bytes | None, ended: tuple[bytes, bytes, int]) -> None:
    assert served.run(command, given) == ended


def test_files(served: Served, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(BLOB)
    with source.open("rb") as given, target.open("wb") as sink:
        assert (
            subprocess.run(served.attach("cat"), stdin=given, stdout=sink, timeout=60, check=False).returncode
            == 0
        )
    assert target.read_bytes() == BLOB


@pytest.mark.parametrize(
    ("closed", "output"),
    [("<&-", b"out\n"), (">&-", b""), ("<&- >&- 2>&-", b"")],
)
def test_closed_descriptors(served: Served, closed: str, output: bytes) -> None:
    child = ["sh", "-c", f'"$@" {closed}', "sh", *served.attach("cat; echo out; exit 3")]
    done = subprocess.run(child, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == (output, b"", 3)


def test_a_silent_terminal_and_output_as_it_comes(served: Served) -> None:
    """The command's end does not wait for stdin, nor its output for its end."""
    keys, terminal = pty.openpty()
    with (
        os.fdopen(keys, "wb", buffering=0) as typed,
        subprocess.Popen(
            served.attach("echo first; read line; echo got $line; exit 4"),
            stdin=terminal,
            stdout=subprocess.PIPE,
        ) as child,
    ):
        os.close(terminal)
        assert child.stdout is not None
        assert child.stdout.readline() == b"first\n"
        typed.write(b"typed\n")
        assert child.stdout.readline() == b"got typed\n"
        assert child.wait(20) == 4


def started(served: Served, command: str) -> tuple["subprocess.Popen[bytes]", int]:
    """A command that writes its process id first."""
    child = subprocess.Popen(served.attach(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert child.stdout is not None
    return child, int(child.stdout.readline())


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_who_goes_away_takes_the_command_along(served: Served, end: signal.Signals) -> None:
    child, pid = started(served, "trap '' INT TERM HUP; echo $$; sleep 100; true")
    with child:
        child.send_signal(end)
        assert child.wait(20) == -end
    wait_until(lambda: gone(pid), "the command is gone")


def test_ctrl_c_is_the_commands_and_then_ours(served: Served) -> None:
    child, pid = started(served, "trap 'echo once' INT; echo $$; while :; do sleep 0.05; done")
    with child:
        child.send_signal(signal.SIGINT)
        assert child.stdout is not None
        assert child.stdout.readline() == b"once\n"
        assert not gone(pid)
        child.send_signal(signal.SIGINT)
        assert child.wait(20) != 0
    wait_until(lambda: gone(pid), "the command is gone")


def test_ctrl_c_ends_what_does_not_read(served: Served) -> None:
    with subprocess.Popen(["cat", "/dev/zero"], stdout=subprocess.PIPE) as endless:
        child = subprocess.Popen(
            served.attach("echo there; exec sleep 100"), stdin=endless.stdout, stdout=subprocess.PIPE
        )
        with child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"there\n"
            child.send_signal(signal.SIGINT)
            assert child.wait(20) == 128 + signal.SIGINT
        endless.kill()


def test_a_slow_reader_stops_the_command_and_loses_nothing(served: Served, tmp_path: Path) -> None:
    count = 8 << 20
    mark = tmp_path / "done"
    command = f"head -c {count} /dev/zero; echo end; touch {mark}"
    child = subprocess.Popen(served.attach(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    with child:
        assert child.stdout is not None
        assert select.select([child.stdout], [], [], 20)[0]
        quick = served.run("echo quick")
        assert quick == (b"quick\n", b"", 0)
        assert not mark.exists()
        assert child.stdout.read() == bytes(count) + b"end\n"
        assert child.wait(20) == 0


def test_a_reader_that_goes_away_ends_it(served: Served) -> None:
    child, pid = started(served, "echo $$; exec yes")
    with child:
        assert child.stdout is not None
        child.stdout.close()
        assert child.wait(20) != 0
    wait_until(lambda: gone(pid), "the command is gone")


def test_the_limit_of_time(served: Served) -> None:
    child = served.attach("echo $$; exec sleep 100", timeout=0.5)
    done = subprocess.run(child, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    assert (
        b"VM 'r1': in the guest, 'echo $$; exec sleep 100' took more than 0.5 s, and was killed"
        in done.stderr
    )
    assert done.returncode == 1
    wait_until(lambda: gone(int(done.stdout)), "the command is gone")


def test_two_at_once(served: Served) -> None:
    def both(commands: Sequence[str]) -> list[bytes]:
        children = [
            subprocess.Popen(served.attach(each), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
            for each in commands
        ]
        return [child.communicate(timeout=60)[0] for child in children]

    assert both(["sleep 0.2; echo 1", "echo 2"]) == [b"1\n", b"2\n"]
