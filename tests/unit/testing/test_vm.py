"""vbackend/testing/vm.py: what it asks a daemon, and what it makes of the answers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from vbackend.errors import ConfigError, ControlError
from vbackend.lab.state import LabFolder
from vbackend.qemu import agent
from vbackend.testing.control import LabControl
from vbackend.testing.vm import CommandError, Result, Vm


class Daemon(LabControl):
    """Gives the answers it was given, one after the other, and remembers what it was asked."""

    def __init__(self, runtime: Path, *answers: Result | Exception) -> None:
        super().__init__("two", {"XDG_RUNTIME_DIR": str(runtime)})
        self.asked: list[tuple[str, Any]] = []
        self.answers = list(answers)

    def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout: float = 30.0
    ) -> Any:
        assert timeout > 0
        self.asked.append((command, arguments))
        return {}

    def run(self, vm: str, command: str, *, input: bytes, timeout: float) -> agent.Result:
        self.asked.append((f"{vm}: {command}", (input, timeout)))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return agent.Result(answer.stdout.encode(), answer.stderr.encode(), answer.status)


GOOD = Result("yes\n", "", 0)
BAD = Result("no\n", "oops\n", 3)


def test_a_command(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, GOOD)
    assert Vm("r1", daemon).run("true", timeout=7) == GOOD
    assert Vm("r1", daemon).run("cat", input="ü") == GOOD
    assert Vm("r1", daemon).run("cat", input=b"\xff") == GOOD
    assert daemon.asked == [
        ("r1: true", (b"", 7)),
        ("r1: cat", ("ü".encode(), 30)),
        ("r1: cat", (b"\xff", 30)),
    ]


def test_a_command_that_fails(tmp_path: Path) -> None:
    vm = Vm("r1", Daemon(tmp_path, BAD))
    with pytest.raises(CommandError, match="r1: 'false': status 3\nno\noops") as raised:
        vm.run("false")
    assert raised.value.result == BAD
    assert vm.run("false", check=False) == BAD


def test_again_and_again(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, BAD, BAD, GOOD)
    assert Vm("r1", daemon).wait_until("true") == GOOD
    assert len(daemon.asked) == 3


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        ([BAD], "r1: not within 0.2 s: 'true': status 3\nno\noops"),
        (
            [ControlError("it took too long")],
            "r1: not within 0.2 s: 'true': it never ended; then it took too long",
        ),
        ([BAD, ControlError("it took too long")], "status 3\nno\noops; then it took too long"),
    ],
)
def test_in_vain(tmp_path: Path, answers: list[Result | Exception], text: str) -> None:
    with pytest.raises(AssertionError, match=text):
        Vm("r1", Daemon(tmp_path, *answers)).wait_until("true", timeout=0.2)


def test_a_mistake_is_not_waited_for(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, ConfigError("VM 'r1' is stopped"))
    with pytest.raises(ConfigError, match="is stopped"):
        Vm("r1", daemon).wait_until("true")
    assert len(daemon.asked) == 1


def test_power(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    vm = Vm("r1", daemon)
    vm.stop()
    vm.start()
    vm.reset()
    assert daemon.asked == [(command, {"vm": "r1"}) for command in ("vm-stop", "vm-start", "vm-restart")]
    assert repr(vm) == "<Vm r1 of lab two>"


def test_the_console(tmp_path: Path) -> None:
    log = LabFolder("two", {"XDG_RUNTIME_DIR": str(tmp_path)}).vm("r1").console_log
    log.parent.mkdir(parents=True)
    log.write_bytes(b"Linux \xff\n")
    assert Vm("r1", Daemon(tmp_path)).console == "Linux \ufffd\n"
