"""`vbackend args`: a line for the shell on stdout, remarks on stderr."""

import shlex

import pytest

from tests.unit.cli.harness import one_line, vbackend


def test_arguments_can_be_given_to_qemu(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = vbackend(capsys, "args", "stream:unix:/tmp/a b.sock", "--mac", "52:54:00:00:00:07")
    assert outcome.status == 0, outcome.err
    words = shlex.split(outcome.out)
    assert outcome.out.count("\n") == 1
    assert "-netdev" in words
    assert "-device" in words
    assert any("/tmp/a b.sock" in word for word in words)
    assert any("mac=52:54:00:00:00:07" in word for word in words)
    assert all(line.startswith("# ") for line in outcome.err.splitlines())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), ["-object", "memory-backend-memfd,id=vbackend-memory,size=128M,share=on", "-machine"]),
        (("--memory", "4G"), ["-object", "memory-backend-memfd,id=vbackend-memory,size=4G,share=on"]),
        (("--memory", "none"), ["-chardev"]),
    ],
)
def test_vhost_user(capsys: pytest.CaptureFixture[str], options: tuple[str, ...], words: list[str]) -> None:
    outcome = vbackend(capsys, "args", "vhost-user:/tmp/a", "--accel", "tcg", *options)
    assert outcome.status == 0, outcome.err
    assert shlex.split(outcome.out)[: len(words)] == words


@pytest.mark.parametrize(("option", "value"), [("--memory", "lots"), ("--accel", "hvf")])
def test_what_vhost_user_cannot_have(capsys: pytest.CaptureFixture[str], option: str, value: str) -> None:
    assert value in one_line(vbackend(capsys, "args", "vhost-user:/tmp/a", option, value), 2)


def test_no_such_qemu(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no-such-qemu" in one_line(vbackend(capsys, "args", "stream:unix:/a", "--qemu", "no-such-qemu"), 1)


@pytest.mark.parametrize("mac", ["zz", "52:54:00:00:00", "01:00:5e:00:00:01"])
def test_a_card_needs_a_stations_address(capsys: pytest.CaptureFixture[str], mac: str) -> None:
    complaint = one_line(vbackend(capsys, "args", "stream:unix:/a", "--mac", mac), 2)
    assert "--mac" in complaint
    assert mac in complaint
