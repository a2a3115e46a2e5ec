import signal
from pathlib import Path

import pytest

from tests.support.run import NotReadyError, Run, vbackend_run, wait_until


def ports(folder: Path) -> tuple[str, str]:
    return f"stream:unix:{folder}/a,name=a", f"stream:unix:{folder}/b,name=b"


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_ready_looked_at_and_stopped(tmp_path: Path) -> None:
    with vbackend_run(tmp_path, *ports(tmp_path), "--workers", "2", name="lab") as run:
        assert (tmp_path / "a").is_socket()
        snapshot = run.snapshot()
        assert (snapshot.name, snapshot.pid, snapshot.workers) == ("lab", run.pid, 2)
        assert run.port("b").state == "listening"
        run.set("b", "down")
        assert run.port("b").state == "down"
        with pytest.raises(AssertionError, match="no port 'c' but a, b"):
            run.port("c")
        assert "ready" in run.log()
    assert not alive(run.pid)
    assert [path.name for path in tmp_path.iterdir()] == ["lab.log"]


def test_stopped_by_the_test(tmp_path: Path) -> None:
    with vbackend_run(tmp_path, *ports(tmp_path)) as run:
        assert run.stop(signal.SIGKILL) == -signal.SIGKILL
        with pytest.raises(AssertionError, match="ended while waiting for luck"):
            run.wait_for(lambda: False, "luck")
    assert not alive(run.pid)


def test_killed_when_the_test_fails(tmp_path: Path) -> None:
    seen: list[Run] = []

    def fail() -> None:
        with vbackend_run(tmp_path, *ports(tmp_path)) as run:
            seen.append(run)
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert not alive(seen[0].pid)


def test_a_crash_is_told_with_its_log(tmp_path: Path) -> None:
    def crash() -> None:
        with vbackend_run(tmp_path, *ports(tmp_path)) as run:
            assert not run.crashed()
            run.stop(signal.SIGABRT)

    with pytest.raises(AssertionError, match="status -6: ") as raised:
        crash()
    assert "ready" in str(raised.value)


def test_a_crash_is_noted_when_the_test_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with vbackend_run(tmp_path, *ports(tmp_path)) as run:
            run.stop(signal.SIGABRT)
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom") as raised:
        fail()
    assert "status -6" in raised.value.__notes__[0]


def test_an_end_before_ready_tells_why(tmp_path: Path) -> None:
    with pytest.raises(NotReadyError) as raised, vbackend_run(tmp_path, "nonsense:x", "nonsense:y"):
        pass
    assert raised.value.status == 2
    assert "nonsense" in raised.value.log
    assert raised.value.log.count("\n") == 1


def test_the_prefix_becomes_the_program(tmp_path: Path) -> None:
    with vbackend_run(tmp_path, *ports(tmp_path), prefix=["env", "-u", "NOTHING"]) as run:
        assert run.snapshot().pid == run.pid


def test_what_never_comes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.run.DEADLINE_S", 0.05)
    with pytest.raises(AssertionError, match="s: the moon"):
        wait_until(lambda: False, "the moon")
