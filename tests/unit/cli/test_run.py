"""`vbackend run` as a process: ready, logs, live changes, and an end in order."""

import os
import signal
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from tests.support.run import VBACKEND
from tests.unit.cli.processes import (
    DEADLINE,
    Running,
    connect,
    environment,
    frame,
    running,
    take,
    wait_until,
)


def specs(home: Path) -> tuple[str, str]:
    return f"stream:unix:{home}/a,name=a", f"stream:unix:{home}/b,name=b"


def left_over(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if not path.is_dir())


def connected(backend: Running) -> bool:
    return all(port["state"] == "connected" for port in backend.show()["ports"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("kind", ["--switch", "--cable"])
def test_from_ready_to_the_end(tmp_path: Path, number: signal.Signals, kind: str) -> None:
    with running(tmp_path, kind, *specs(tmp_path)) as backend:
        control = tmp_path / "vbackend" / "default.sock"
        assert stat.S_IMODE(control.stat().st_mode) == 0o600
        assert stat.S_IMODE(control.parent.stat().st_mode) == 0o700
        with connect(tmp_path / "a") as a, connect(tmp_path / "b") as b:
            wait_until(lambda: connected(backend), "both connected")
            a.sendall(frame("there"))
            assert take(b) == frame("there")
            b.sendall(frame("back", source=2))
            assert take(a) == frame("back", source=2)
            status = backend.show()
            assert status["segments"][0]["kind"] == kind[2:]
            counts = {
                port["name"]: (port["rx"]["frames_in"], port["tx"]["frames_out"]) for port in status["ports"]
            }
            assert counts == {"a": (1, 1), "b": (1, 1)}
            a.close()
            wait_until(lambda: backend.show()["ports"][0]["last_end"], "the end of a's session")
            code, log = backend.end(number)
    assert code == 0, log
    assert left_over(tmp_path) == []
    lines = log.splitlines()
    assert sum("port a: connected to" in line for line in lines) == 1
    assert sum("port a: session 1 with" in line and "ended: " in line for line in lines) == 1
    assert sum("port b: session 1 with" in line and "ended: " in line for line in lines) == 1
    assert "Traceback" not in log


def test_quit_by_the_control_socket(tmp_path: Path) -> None:
    from vbackend.control.client import call

    with running(tmp_path, "--name", "lab", *specs(tmp_path)) as backend:
        assert call(str(tmp_path / "vbackend" / "lab.sock"), "quit") == {}
        code, log = backend.finished()
    assert code == 0, log
    assert left_over(tmp_path) == []


def test_live_changes(tmp_path: Path) -> None:
    with running(tmp_path, *specs(tmp_path)) as backend:
        done = backend.command("add", f"stream:unix:{tmp_path}/c,name=c")
        assert (done.returncode, done.stdout) == (0, "c\n"), done.stderr
        assert backend.command("set", "c", "down", "queue=7").returncode == 0
        port = backend.show()["ports"][2]
        assert (port["up"], port["state"], port["queue_frames"]) == (False, "down", 7)
        assert (tmp_path / "c").is_socket()
        assert backend.command("remove", "c").returncode == 0
        assert not (tmp_path / "c").exists()
        assert [port["name"] for port in backend.show()["ports"]] == ["a", "b"]
        text = backend.command("show")
        assert text.returncode == 0
        assert "TRAFFIC" in text.stdout
        assert backend.end()[0] == 0


def test_service_manager_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(DEADLINE)
        name = f"vbackend-manager-{os.getpid()}"
        manager.bind(f"\0{name}")
        with running(tmp_path, *specs(tmp_path), NOTIFY_SOCKET=f"@{name}") as backend:
            assert manager.recv(100) == b"READY=1"
            assert backend.end()[0] == 0
            assert manager.recv(100) == b"STOPPING=1"


def test_second_of_the_same_name_is_told_who_has_it(tmp_path: Path) -> None:
    with running(tmp_path, *specs(tmp_path)) as backend:
        done = subprocess.run(
            [*VBACKEND, "run", f"stream:unix:{tmp_path}/x", f"stream:unix:{tmp_path}/y"],
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert done.returncode == 2
        assert f"in use by process {backend.child.pid} " in done.stderr
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "x").exists()
        assert backend.show()["ports"]


@pytest.mark.parametrize("lacks", ["a port's path", "a tcp port", "the directory of the control socket"])
def test_failure_to_start_is_one_line_and_leaves_nothing(tmp_path: Path, lacks: str) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket() as busy_tcp:
        busy.bind(str(tmp_path / "busy"))
        busy.listen()
        busy_tcp.bind(("127.0.0.1", 0))
        busy_tcp.listen()
        number = busy_tcp.getsockname()[1]
        arguments, status, word = {
            "a port's path": ([f"stream:unix:{tmp_path}/busy"], 2, f"in use by process {os.getpid()} "),
            "a tcp port": ([f"stream:tcp:127.0.0.1:{number}"], 1, str(number)),
            "the directory of the control socket": (
                ["tap:unused", "--control", f"{tmp_path}/no/x"],
                1,
                "its directory does not exist",
            ),
        }[lacks]
        with running(tmp_path, f"stream:unix:{tmp_path}/a", *arguments, ready=False) as backend:
            code, log = backend.finished()
    assert code == status, log
    assert word in log
    assert log.count("\n") == 1, log
    assert left_over(tmp_path) == ["busy"]


def test_after_sigkill_the_next_one_starts_at_the_same_places(tmp_path: Path) -> None:
    with running(tmp_path, *specs(tmp_path)) as backend:
        assert backend.end(signal.SIGKILL)[0] == -signal.SIGKILL
    assert left_over(tmp_path) == ["a", "b", "vbackend/default.sock"]
    with running(tmp_path, *specs(tmp_path)) as backend:
        with connect(tmp_path / "a"):
            wait_until(lambda: backend.show()["ports"][0]["state"] == "connected", "a connected")
        assert backend.end()[0] == 0
    assert left_over(tmp_path) == []
