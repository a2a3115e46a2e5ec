"""Commands are printed, fail loudly, and get no stdin unless asked."""

import sys

import pytest

from tools.devtool import run as dev


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_prints_the_line_before_it_runs(capfd: pytest.CaptureFixture[str]) -> None:
    dev.run(["echo", "two words", "end"], env={"FLAG": "a b"})
    assert capfd.readouterr().out.splitlines() == ["$ FLAG='a b' echo 'two words' end", "two words end"]


@pytest.mark.parametrize(
    ("command", "status", "says"),
    [
        (python("raise SystemExit(3)"), 3, "exit status 3"),
        (python("import os; os.kill(os.getpid(), 9)"), 137, "killed by SIGKILL"),
        (["no-such-program-here"], 127, "cannot run no-such-program-here"),
    ],
)
def test_failure_is_an_error_with_the_status(command: list[str], status: int, says: str) -> None:
    with pytest.raises(dev.DevError, match=says) as caught:
        dev.run(command)
    assert caught.value.status == status


def test_what_runs_beside_is_heard_at_the_end(capfd: pytest.CaptureFixture[str]) -> None:
    with dev.beside(["echo", "background"], env={"FLAG": "a b"}):
        dev.run(["echo", "foreground"])
    assert capfd.readouterr().out.splitlines() == [
        "$ FLAG='a b' echo background &",
        "$ echo foreground",
        "foreground",
        "$ FLAG='a b' echo background",
        "background",
    ]


@pytest.mark.parametrize(
    ("beside", "body", "status"), [("exit 3", "true", 3), ("true", "exit 4", 4), ("exit 3", "exit 4", 4)]
)
def test_what_fails_on_either_side_is_an_error(
    beside: str, body: str, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(dev.DevError) as caught, dev.beside(["sh", "-c", f"echo heard; {beside}"]):
        dev.run(["sh", "-c", body])
    assert caught.value.status == status
    assert "heard" in capfd.readouterr().out


def test_no_stdin() -> None:
    dev.run(python("import sys; sys.exit(sys.stdin.read() != '')"))


def test_output_is_none_when_it_fails() -> None:
    assert dev.output(["echo", "x"]) == "x\n"
    assert dev.output(["false"]) is None
    assert dev.output(["no-such-program-here"]) is None


def test_environment_is_the_virtual_one() -> None:
    env = dev.environment()
    assert env["PATH"].startswith(f"{dev.VENV}/bin:")
    assert env["PYTHONPATH"] == str(dev.ROOT)


def test_host_triple() -> None:
    text = "rustc 1.95.0\nbinary: rustc\nhost: x86_64-unknown-linux-gnu\nrelease: 1.95.0\n"
    assert dev.host_triple(text) == "x86_64-unknown-linux-gnu"
    with pytest.raises(dev.DevError, match="names no host"):
        dev.host_triple("binary: rustc")
