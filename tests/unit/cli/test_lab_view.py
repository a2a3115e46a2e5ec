"""What `vbackend ps` prints."""

from rich.console import Console

from tests.unit.lab.test_status import status
from vbackend.cli.lab_view import dead_line, lab_view


def test_a_lab() -> None:
    console = Console(width=100, emoji=False, highlight=False)
    with console.capture() as capture:
        console.print(lab_view(status(), now=61.0))
    lines = [line.rstrip() for line in capture.get().splitlines()]
    assert lines[0] == "lab two  2 VMs  2 links  daemon 7"
    a = next(line for line in lines if line.startswith("a "))
    assert a.split()[:5] == ["a", "running", "1", "min", "0"]
    assert "core" in a
    assert any(line.startswith("b   failed why") for line in lines)
    core = [line for line in lines if "a:eth0" in line][-1]
    assert core.split() == ["core", "down", "a:eth0", "2", "200", "B", "1", "rate=1M"]


def test_a_dead_daemon() -> None:
    assert dead_line("two", ["a"]).startswith("lab two  its daemon is dead; still running: a;")
    assert "no guest runs" in dead_line("two", [])
