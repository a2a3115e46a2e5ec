"""`vbackend exec`: what stands behind `--` is the child's, and its status is ours."""

import sys

import pytest

from tests.unit.cli.harness import one_line, vbackend


@pytest.mark.parametrize("ports", [[], ["stream"], ["dgram,name=x", "stream"]])
def test_status_and_arguments_of_the_child(capsys: pytest.CaptureFixture[str], ports: list[str]) -> None:
    code = "import sys; sys.exit(40 + sys.argv.count('-netdev') + 10 * (sys.argv[1:3] == ['--name', '--']))"
    outcome = vbackend(capsys, "exec", *ports, "--", sys.executable, "-c", code, "--name", "--")
    assert (outcome.status, outcome.err) == (50 + max(1, len(ports)), "")


def test_no_such_program(capsys: pytest.CaptureFixture[str]) -> None:
    text = one_line(vbackend(capsys, "exec", "--", "no-such-qemu"), 1)
    assert text == "exec: 'no-such-qemu' is no program that can be run; install it, or give its path"


def test_options_before_the_dashes_are_ours(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = vbackend(capsys, "exec", "--queue-limit", "0", "stream", "--", "true")
    assert one_line(outcome, 2).startswith("exec: Invalid value for '--queue-limit'")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["stream", "--timeout", "5"], "exec: --lab and --timeout are for a command in a guest"),
        (["--lab", "x"], "exec: --lab and --timeout are for a command in a guest"),
        (["r1", "--name", "x"], "exec: 'r1' is a VM of a lab, which has its socket; leave --name"),
        (["r1", "--control", "x"], "exec: 'r1' is a VM of a lab, which has its socket; leave --name"),
    ],
)
def test_options_of_the_other_kind(capsys: pytest.CaptureFixture[str], words: list[str], text: str) -> None:
    assert one_line(vbackend(capsys, "exec", *words, "--", "true"), 2).startswith(text)
